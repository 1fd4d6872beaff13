import pytest

from registry.domain.locks import parse_lock
from registry.domain.references import VersionReference
from registry.errors import InvalidInput


def test_a_lock_names_one_version_of_every_task() -> None:
    lock = parse_lock({"backbone": "minilm", "tasks": {"sst": 2, "rte": 3}}, "lock.yaml")
    assert lock.versions == (VersionReference(task="rte", number=3), VersionReference(task="sst", number=2))


@pytest.mark.parametrize(
    ("content", "places"),
    [
        ({"backbone": "../minilm", "tasks": {"RTE": 1, "sst": "two"}, "made_by": "ann"}, 4),
        ({"backbone": "minilm", "tasks": {}}, 1),
        ({}, 2),
        (None, 1),
        ("lock", 1),
    ],
)
def test_every_problem_of_a_lock_is_listed(content: object, places: int) -> None:
    with pytest.raises(InvalidInput, match=r"^lock\.yaml") as refused:
        parse_lock(content, "lock.yaml")
    assert len(refused.value.problems) == places
