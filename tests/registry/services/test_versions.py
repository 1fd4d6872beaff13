from collections.abc import Callable
from typing import Any

import pytest

from registry.database.engine import Database
from registry.domain.records import Retirement, Version
from registry.domain.references import AliasReference, VersionReference
from registry.errors import InvalidInput, NotAllowed, NotFound, UsageError
from registry.services.aliases import promote
from registry.services.audit import list_events
from registry.services.backbones import pin_backbone
from registry.services.tasks import get_task, register_task, retire_task, update_task
from registry.services.versions import find_trial, get_version, list_versions, register_version


def test_a_version_is_kept_as_it_was_registered(registry: Database, new_version: Any, change: dict[str, Any]) -> None:
    new = new_version()
    with registry.write() as session:
        version = register_version(session, new, **change)
    assert version == Version(**new.model_dump(), number=1, created_at=change["at"], created_by=change["actor"])
    with registry.read() as session:
        assert get_version(session, VersionReference(task="rte", number=1)) == version


def test_every_task_counts_for_itself(registry: Database, new_version: Any, change: dict[str, Any]) -> None:
    with registry.write() as session:
        numbers = [
            register_version(session, new_version(task, trial=trial), **change).number
            for task, trial in (("rte", "a"), ("rte", "b"), ("sst", "a"), ("rte", "c"), ("sst", "b"))
        ]
        assert numbers == [1, 2, 1, 3, 2]
        assert [version.number for version in list_versions(session, "rte")] == [1, 2, 3]
        assert get_task(session, "rte").version_count == 3


def test_the_same_trial_is_the_same_version(registry: Database, new_version: Any, change: dict[str, Any]) -> None:
    with registry.write() as session:
        first = register_version(session, new_version(trial="a"), **change)
        register_version(session, new_version(trial="b"), **change)
    with registry.write() as session:
        assert register_version(session, new_version(trial="a"), actor="bob", at=change["at"]) == first
        assert len(list_versions(session, "rte")) == 2
        assert len(list_events(session, object="version rte/1")) == 1


def test_the_same_trial_of_another_task_is_another_version(
    registry: Database, new_version: Any, change: dict[str, Any]
) -> None:
    with registry.write() as session:
        key = new_version().trial_key
        register_version(session, new_version("rte", trial_key=key), **change)
        assert register_version(session, new_version("sst", trial_key=key), **change).task == "sst"


def test_a_trial_is_found_by_its_key(registry: Database, new_version: Any, change: dict[str, Any]) -> None:
    with registry.write() as session:
        version = register_version(session, new_version(trial="a"), **change)
        assert find_trial(session, "rte", version.trial_key) == version
        assert find_trial(session, "rte", new_version(trial="b").trial_key) is None
        assert find_trial(session, "sst", version.trial_key) is None


def test_a_number_is_not_given_again_after_a_refusal(
    registry: Database, new_version: Any, change: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput), registry.write() as session:
        register_version(session, new_version(task_layers=3), **change)
    with registry.write() as session:
        assert register_version(session, new_version(), **change).number == 1


def test_processes_that_register_at_once_get_numbers_without_gap_or_repeat(
    registry: Database, database_url: str, together: Callable[..., list[Any]], new_version: Any, change: dict[str, Any]
) -> None:
    each = 6

    def register(process: int) -> list[int]:
        own = Database.open(database_url)
        numbers = []
        for trial in range(each):
            with own.write() as session:
                numbers.append(register_version(session, new_version(trial=f"{process}-{trial}"), **change).number)
        own.close()
        return numbers

    given = together(8, register)
    assert all(isinstance(numbers, list) for numbers in given), given
    assert sorted(number for numbers in given for number in numbers) == list(range(1, 8 * each + 1))
    assert all(numbers == sorted(numbers) for numbers in given)


def test_processes_that_register_one_trial_at_once_register_one_version(
    registry: Database, database_url: str, together: Callable[..., list[Any]], new_version: Any, change: dict[str, Any]
) -> None:
    def register(_: int) -> int:
        own = Database.open(database_url)
        with own.write() as session:
            number = register_version(session, new_version(), **change).number
        own.close()
        return number

    assert together(4, register) == [1] * 4


def test_an_alias_is_followed_to_its_version(registry: Database, new_version: Any, change: dict[str, Any]) -> None:
    champion = AliasReference(task="rte", alias="champion")
    with registry.write() as session:
        for trial in "ab":
            register_version(session, new_version(trial=trial), **change)
        with pytest.raises(NotFound, match="task rte has no alias 'champion'"):
            get_version(session, champion)
        promote(session, VersionReference(task="rte", number=2), "champion", expect=None, **change)
        assert get_version(session, champion).number == 2


def test_a_retired_task_takes_no_new_version_but_knows_the_old_ones(
    registry: Database, new_version: Any, change: dict[str, Any]
) -> None:
    with registry.write() as session:
        first = register_version(session, new_version(trial="a"), **change)
        retire_task(session, "rte", Retirement(reason="merged"), **change)
    with (
        pytest.raises(NotAllowed, match=r"task rte is retired \(merged\): it takes no new versions"),
        registry.write() as session,
    ):
        register_version(session, new_version(trial="b"), **change)
    with registry.write() as session:
        assert register_version(session, new_version(trial="a"), **change) == first


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"task": "new"}, "no task 'new'"),
        ({"backbone": "large"}, "no backbone 'large'"),
        ({"spec_revision": 2}, "task rte has no spec revision 2"),
        ({"kind": "student", "teacher": 4}, "no version rte/4"),
    ],
)
def test_what_a_version_refers_to_exists(
    registry: Database, new_version: Any, change: dict[str, Any], fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(NotFound, match=said), registry.write() as session:
        register_version(session, new_version(**fields), **change)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"task_layers": 3}, "frozen depth 2 + 3 task layers is 5, but backbone tiny has 4 layers"),
        ({"prefix_digest": "f" * 64}, r"it was trained on another P(2) (ffffffffffff…) than that of backbone tiny"),
        ({"head": {"type": "classification", "outputs": 3}}, "is classification with 2"),
        ({"head": {"type": "regression", "outputs": 2}}, "its head is regression with 2 outputs"),
        ({"kind": "student"}, "a student names its teacher, a teacher names none"),
        ({"teacher": 1}, "a student names its teacher, a teacher names none"),
        ({"kind": "student", "teacher": 2}, "rte/2 is a student: only a teacher can be distilled"),
        (
            {"kind": "student", "teacher": 1, "frozen_depth": 1},
            "its frozen depth 1 is less than 2, that of its teacher rte/1",
        ),
        ({"kind": "student", "teacher": 3}, "its layers end at layer 4, above 3, where those of its teacher rte/3 end"),
        ({"kind": "student", "teacher": 4}, "rte/4 was trained on backbone other, which is not tiny up to layer 2"),
    ],
)
def test_a_module_that_does_not_fit_is_refused(
    registry: Database,
    new_backbone: Any,
    new_version: Any,
    change: dict[str, Any],
    fields: dict[str, Any],
    said: str,
) -> None:
    with registry.write() as session:
        other = pin_backbone(session, new_backbone("other", content="two"), **change)
        register_version(session, new_version(trial="teacher"), **change)
        student = {"kind": "student", "teacher": 1, "frozen_depth": 3, "task_layers": 1}
        register_version(session, new_version(trial="student", **student), **change)
        register_version(session, new_version(trial="low", task_layers=1), **change)
        elsewhere = new_version(trial="elsewhere", backbone="other", prefix_digest=other.prefix_digests[2])
        register_version(session, elsewhere, **change)
    with pytest.raises(InvalidInput) as refused, registry.write() as session:
        register_version(session, new_version(trial="new", **fields), **change)
    assert said in str(refused.value)
    with registry.read() as session:
        assert len(list_versions(session, "rte")) == 4


def test_all_that_does_not_fit_is_listed(registry: Database, new_version: Any, change: dict[str, Any]) -> None:
    spoilt = new_version(task_layers=9, head={"type": "regression", "outputs": 1}, kind="student")
    with pytest.raises(InvalidInput, match="version of task rte: 3 problems"), registry.write() as session:
        register_version(session, spoilt, **change)


def test_a_version_keeps_the_revision_that_it_was_trained_on(
    registry: Database, spec: Any, new_version: Any, change: dict[str, Any]
) -> None:
    with registry.write() as session:
        update_task(session, spec("rte", labels=["a", "b", "c"]), **change)
        old = register_version(session, new_version(trial="old"), **change)
        head = {"type": "classification", "outputs": 3}
        new = register_version(session, new_version(trial="new", spec_revision=2, head=head), **change)
        assert (old.spec_revision, new.spec_revision) == (1, 2)


def test_a_module_attaches_to_every_backbone_with_its_prefix(
    registry: Database, new_backbone: Any, new_version: Any, change: dict[str, Any]
) -> None:
    with registry.write() as session:
        pin_backbone(session, new_backbone("copy"), **change)
        assert register_version(session, new_version(backbone="copy"), **change).backbone == "copy"


def test_unknown_versions_and_tasks_are_named(registry: Database) -> None:
    with registry.read() as session:
        with pytest.raises(NotFound, match=r"no version rte/7: `trunkline task versions rte`"):
            get_version(session, VersionReference(task="rte", number=7))
        with pytest.raises(NotFound, match="no task 'new'"):
            list_versions(session, "new")
        with pytest.raises(UsageError, match="is not a name"):
            find_trial(session, "a/b", "key")


def test_a_task_that_nobody_trained_has_no_versions(registry: Database, spec: Any, change: dict[str, Any]) -> None:
    with registry.write() as session:
        register_task(session, spec("new"), team="nlu", **change)
        assert list_versions(session, "new") == []
