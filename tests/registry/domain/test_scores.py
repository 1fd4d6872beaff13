from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from registry.domain.records import NewVersion, Version
from registry.domain.scores import best_first

AT = datetime(2026, 5, 1, tzinfo=UTC)


def versions(new_version: Callable[..., NewVersion], scores: list[tuple[str, float | None]]) -> list[Version]:
    """Versions 1, 2, … with a dev digest and an accuracy each, or none."""
    return [
        Version(
            **new_version(dev_digest=dev * 64, metrics={} if score is None else {"accuracy": score}).model_dump(),
            number=number,
            created_at=AT,
            created_by="ann",
        )
        for number, (dev, score) in enumerate(scores, 1)
    ]


def test_the_best_stand_first_equals_by_age_and_those_without_the_metric_last(new_version: Any) -> None:
    (group,) = best_first(versions(new_version, [("a", None), ("a", 0.5), ("a", 0.9), ("a", 0.5)]), "accuracy")
    assert [version.number for version in group] == [3, 2, 4, 1]


def test_the_group_with_the_newest_version_stands_first(new_version: Any) -> None:
    groups = best_first(versions(new_version, [("a", 0.9), ("b", 0.1), ("a", 0.2), ("b", 0.3)]), "accuracy")
    assert [[version.number for version in group] for group in groups] == [[4, 2], [1, 3]]


@given(scores=st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.floats(-1, 1))))
def test_every_version_stands_in_one_group_with_those_of_its_dev_data_only(new_version: Any, scores: Any) -> None:
    given_versions = versions(new_version, scores)
    groups = best_first(given_versions, "accuracy")
    assert sorted(v.number for group in groups for v in group) == [v.number for v in given_versions]
    assert len({group[0].dev_digest for group in groups}) == len(groups)
    for group in groups:
        assert len({version.dev_digest for version in group}) == 1
        scores_in_group = [version.metrics["accuracy"] for version in group if version.metrics]
        assert scores_in_group == sorted(scores_in_group, reverse=True)
