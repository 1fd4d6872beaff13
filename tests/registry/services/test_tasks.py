from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from registry.database.engine import Database
from registry.domain.records import Retirement, TaskSearch, TaskState
from registry.domain.references import VersionReference
from registry.errors import AlreadyExists, NotAllowed, NotFound, UsageError
from registry.services.aliases import promote
from registry.services.audit import list_events
from registry.services.tasks import (
    find_tasks,
    get_spec,
    get_task,
    list_tasks,
    register_task,
    retire_task,
    revive_task,
    task_at,
    update_task,
)
from registry.services.versions import register_version

LATER = {"actor": "bob", "at": datetime(2026, 6, 1, tzinfo=UTC)}


def actions(database: Database, task: str) -> list[str]:
    with database.read() as session:
        return [event.action for event in reversed(list_events(session, object=f"task {task}"))]


def test_a_registered_task_is_active_with_its_first_revision(
    registry: Database, spec: Any, change: dict[str, Any]
) -> None:
    with registry.read() as session:
        task = get_task(session, "rte")
    assert (task.name, task.team, task.state, task.retirement) == ("rte", "nlu", TaskState.ACTIVE, None)
    assert (task.spec, task.spec_revision, task.version_count, task.aliases) == (spec("rte"), 1, 0, {})
    assert task.created_at == change["at"]


def test_a_name_that_is_taken_points_to_update(registry: Database, spec: Any) -> None:
    with pytest.raises(AlreadyExists, match="`trunkline task update`"), registry.write() as session:
        register_task(session, spec("rte", labels=["a", "b"]), team="search", **LATER)
    assert actions(registry, "rte") == ["task.register"]


def test_a_task_cannot_be_called_as_an_output_that_every_server_has(registry: Database, spec: Any) -> None:
    with pytest.raises(UsageError, match=r"task truncated: .* choose another name"), registry.write() as session:
        register_task(session, spec("truncated"), team="nlu", **LATER)


def test_a_task_needs_a_team_that_exists(registry: Database, spec: Any) -> None:
    with pytest.raises(NotFound, match=r"no team 'nlp': did you mean nlu\?"), registry.write() as session:
        register_task(session, spec("new"), team="nlp", **LATER)
    with pytest.raises(UsageError, match="team: 'N' is not a name"), registry.write() as session:
        register_task(session, spec("new"), team="N", **LATER)
    with registry.read() as session, pytest.raises(NotFound):
        get_task(session, "new")


def test_a_redefinition_is_a_new_revision_and_the_old_one_stays(registry: Database, spec: Any) -> None:
    with registry.write() as session:
        task = update_task(session, spec("rte", labels=["no", "yes", "maybe"]), **LATER)
        assert (task.spec_revision, task.spec.labels) == (2, ("no", "yes", "maybe"))
        assert update_task(session, spec("rte"), **LATER).spec_revision == 3
        assert get_spec(session, "rte", 1) == get_spec(session, "rte", 3) == spec("rte")
        assert get_spec(session, "rte", 2).labels == ("no", "yes", "maybe")
    assert actions(registry, "rte") == ["task.register", "task.update", "task.update"]


def test_an_update_that_changes_nothing_leaves_no_trace(registry: Database, spec: Any) -> None:
    with registry.write() as session:
        assert update_task(session, spec("rte"), **LATER).spec_revision == 1
    assert actions(registry, "rte") == ["task.register"]


def test_an_unknown_task_or_revision_is_named(registry: Database, spec: Any) -> None:
    with registry.write() as session:
        with pytest.raises(NotFound, match=r"no task 'rtee': did you mean rte\? `trunkline task list`"):
            get_task(session, "rtee")
        with pytest.raises(NotFound, match="no task 'rtee'"):
            update_task(session, spec("rtee"), **LATER)
        with pytest.raises(NotFound, match="task rte has no spec revision 2: it has 1 to 1"):
            get_spec(session, "rte", 2)
        with pytest.raises(NotFound, match="no spec revision 0"):
            get_spec(session, "rte", 0)
        with pytest.raises(UsageError, match=r"task: '\.\./rte' is not a name"):
            get_task(session, "../rte")


def test_retiring_says_why_until_when_and_what_comes_instead(registry: Database) -> None:
    retirement = Retirement(reason="merged into sst", sunset_on=date(2026, 9, 1), superseded_by="sst")
    with registry.write() as session:
        task = retire_task(session, "rte", retirement, **LATER)
    assert (task.state, task.retirement, task.retired_at) == (TaskState.RETIRED, retirement, LATER["at"])
    with registry.read() as session:
        assert get_task(session, "rte") == task
        assert get_task(session, "sst").state is TaskState.ACTIVE


def test_reviving_undoes_all_of_it(registry: Database) -> None:
    with registry.write() as session:
        before = get_task(session, "rte")
        retire_task(session, "rte", Retirement(reason="x", sunset_on=date(2026, 9, 1), superseded_by="sst"), **LATER)
    with registry.write() as session:
        assert revive_task(session, "rte", **LATER) == before
    assert actions(registry, "rte") == ["task.register", "task.retire", "task.revive"]


def test_a_task_is_not_retired_twice_nor_revived_while_active(registry: Database) -> None:
    with pytest.raises(NotAllowed, match="task rte is not retired"), registry.write() as session:
        revive_task(session, "rte", **LATER)
    with registry.write() as session:
        retire_task(session, "rte", Retirement(reason="merged"), **LATER)
    with pytest.raises(NotAllowed, match=r"task rte is retired already \(merged\)"), registry.write() as session:
        retire_task(session, "rte", Retirement(reason="again"), **LATER)
    assert actions(registry, "rte") == ["task.register", "task.retire"]


def test_a_successor_exists_and_is_another_task(registry: Database) -> None:
    with pytest.raises(NotAllowed, match="cannot supersede itself"), registry.write() as session:
        retire_task(session, "rte", Retirement(reason="x", superseded_by="rte"), **LATER)
    with pytest.raises(NotFound, match="no task 'new'"), registry.write() as session:
        retire_task(session, "rte", Retirement(reason="x", superseded_by="new"), **LATER)
    with registry.read() as session:
        assert get_task(session, "rte").state is TaskState.ACTIVE


def test_a_list_is_of_one_team_or_state_when_asked(registry: Database, spec: Any) -> None:
    with registry.write() as session:
        register_task(session, spec("a-task"), team="nlu", **LATER)
        retire_task(session, "rte", Retirement(reason="x"), **LATER)

    def names(**wanted: Any) -> list[str]:
        with registry.read() as session:
            return [task.name for task in find_tasks(session, TaskSearch(**wanted)).tasks]

    assert names() == ["a-task", "rte", "sst"]
    assert names(team="nlu") == ["a-task", "rte"]
    assert names(state=TaskState.RETIRED) == ["rte"]
    assert names(team="nlu", state=TaskState.ACTIVE) == ["a-task"]
    assert names(team="search", state=TaskState.RETIRED) == []
    with pytest.raises(NotFound, match="no team 'ops'"):
        names(team="ops")


def test_a_list_says_of_each_task_what_showing_it_says_in_as_many_queries_for_many_as_for_few(
    registry: Database, spec: Any, new_version: Any, change: dict[str, Any]
) -> None:
    queries: list[str] = []
    with registry.read() as session:
        event.listen(session.get_bind(), "before_cursor_execute", lambda *args: queries.append(args[2]))

    def listed() -> int:
        with registry.read() as session:
            queries.clear()
            tasks = list_tasks(session)
            count = len(queries)
            assert tasks == [get_task(session, task.name) for task in tasks]
        return count

    few = listed()
    with registry.write() as session:
        for number in range(5):
            register_task(session, spec(f"task-{number}"), team="nlu", **change)
            for trial in range(number):
                register_version(session, new_version(f"task-{number}", trial=str(trial)), **change)
        for alias in ("champion", "candidate"):
            promote(session, VersionReference(task="task-4", number=4), alias, expect=None, **change)
    assert listed() == few
    with registry.read() as session:
        shown = {task.name: (task.version_count, task.aliases) for task in list_tasks(session)}
    assert shown["task-4"] == (4, {"candidate": 4, "champion": 4})
    assert shown["task-3"] == (3, {})


def test_what_a_task_was_is_told_for_any_moment_also_where_the_clock_went_back(
    registry: Database, spec: Any, new_version: Any, change: dict[str, Any]
) -> None:
    first_day = change["at"]

    def day(number: int) -> dict[str, Any]:
        return {"actor": "ann", "at": first_day + timedelta(days=number)}

    def told(number: int) -> tuple[Any, ...]:
        with registry.read() as session:
            past = task_at(session, "rte", day(number)["at"])
        reason = None if past.retirement is None else past.retirement.reason
        labels = None if past.spec is None else past.spec.labels
        return past.state, reason, past.spec_revision, labels, past.version_count, past.aliases

    with registry.write() as session:
        register_version(session, new_version(), **day(1))
        promote(session, VersionReference(task="rte", number=1), "champion", expect=None, **day(2))
        update_task(session, spec("rte", labels=["a", "b"]), **day(4))
        update_task(session, spec("rte", labels=["c", "d"]), **day(3))
        retire_task(session, "rte", Retirement(reason="over"), **day(5))
        revive_task(session, "rte", **day(6))
    assert told(-1) == (None, None, None, None, 0, {})
    assert told(0) == ("active", None, 1, ("no", "yes"), 0, {})
    assert told(1) == ("active", None, 1, ("no", "yes"), 1, {})
    assert told(3) == ("active", None, 1, ("no", "yes"), 1, {"champion": 1})
    assert told(4) == ("active", None, 3, ("c", "d"), 1, {"champion": 1})
    assert told(5) == ("retired", "over", 3, ("c", "d"), 1, {"champion": 1})
    assert told(6) == ("active", None, 3, ("c", "d"), 1, {"champion": 1})
