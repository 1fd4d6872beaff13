"""32 processes that write at once, each over a connection of its own."""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from registry.database.engine import Database
from registry.database.schema import AliasMoveRow, AliasRow
from registry.domain.alias_journal import replay
from registry.domain.records import Backbone, Retirement
from registry.domain.references import VersionReference
from registry.errors import AlreadyExists, LostRace, NotAllowed
from registry.services.aliases import history, promote, rollback
from registry.services.audit import chain_report, list_events
from registry.services.backbones import list_backbones, pin_backbone
from registry.services.releases import list_releases, register_release
from registry.services.tasks import get_task, list_tasks, register_task, retire_task, revive_task, update_task
from registry.services.teams import create_team, list_teams
from registry.services.versions import list_versions, register_version

pytestmark = pytest.mark.slow

WRITERS = 32
AT = datetime(2026, 5, 2, tzinfo=UTC)

Together = Callable[..., list[Any]]


@pytest.fixture
def write(database_url: str) -> Callable[[], contextlib.AbstractContextManager[Database]]:
    """The test's database, opened anew: in a process of its own nothing of the parent's may be used."""

    @contextmanager
    def opened() -> Iterator[Database]:
        own = Database.open(database_url, busy_seconds=300)  # whether they wait is tested here, not how long
        try:
            yield own
        finally:
            own.close()

    return opened


def by(process: int) -> dict[str, Any]:
    """Who and when: no two clocks agree, and some are an hour behind."""
    return {"actor": f"process-{process}", "at": AT + timedelta(minutes=(process * 37) % 60)}


def check(database: Database) -> None:
    """What must hold whoever wrote: the chain is whole, and every journal replays to its alias."""
    with database.read() as session:
        report = chain_report(session)
        assert report.breaks == ()
        assert [event.number for event in reversed(list_events(session))] == list(range(1, report.events + 1))
        journals: dict[tuple[int, str], list[AliasMoveRow]] = defaultdict(list)
        for move in session.scalars(select(AliasMoveRow).order_by(AliasMoveRow.id)):
            journals[move.task_id, move.alias].append(move)
        aliases = {(row.task_id, row.name): row.version_number for row in session.scalars(select(AliasRow))}
        assert aliases == {
            key: replay((move.kind, move.to_version) for move in moves)[-1] for key, moves in journals.items()
        }
        for moves in journals.values():
            assert [move.from_version for move in moves[1:]] == [move.to_version for move in moves[:-1]]
            assert sorted(move.moved_at for move in moves) == [move.moved_at for move in moves]


def test_versions_of_one_task_are_numbered_without_gap_or_repeat(
    registry: Database, write: Any, together: Together, new_version: Any
) -> None:
    each = 3

    def register(process: int) -> list[int]:
        numbers = []
        with write() as own:
            for trial in range(each):
                with own.write() as session:
                    new = new_version(trial=f"{process}-{trial}")
                    numbers.append(register_version(session, new, **by(process)).number)
        return numbers

    given = together(WRITERS, register)
    assert all(isinstance(numbers, list) and numbers == sorted(numbers) for numbers in given), given
    everything = list(range(1, WRITERS * each + 1))
    assert sorted(number for numbers in given for number in numbers) == everything
    with registry.read() as session:
        assert [version.number for version in list_versions(session, "rte")] == everything
        assert get_task(session, "rte").version_count == WRITERS * each
        assert len({event.object for event in list_events(session)}) == 5 + WRITERS * each
    check(registry)


def test_one_trial_that_all_register_is_one_version(
    registry: Database, write: Any, together: Together, new_version: Any
) -> None:
    def register(process: int) -> int:
        with write() as own, own.write() as session:
            return register_version(session, new_version(), **by(process)).number

    assert together(WRITERS, register) == [1] * WRITERS
    check(registry)


def test_no_move_of_an_alias_by_compare_and_swap_is_lost(
    registry: Database, write: Any, together: Together, new_version: Any, change: dict[str, Any]
) -> None:
    with registry.write() as session:
        for trial in range(WRITERS + 1):
            register_version(session, new_version(trial=str(trial)), **change)
        promote(session, VersionReference(task="rte", number=WRITERS + 1), "champion", expect="none", **change)

    def move(process: int) -> int:
        """Tries until it has put its own version there; returns how often it was too late."""
        wanted = VersionReference(task="rte", number=process + 1)
        with write() as own:
            for lost in range(10_000):
                with own.read() as session:
                    seen = VersionReference(task="rte", number=get_task(session, "rte").aliases["champion"])
                try:
                    with own.write() as session:
                        promote(session, wanted, "champion", expect=seen, **by(process))
                except LostRace:
                    continue
                return lost
        raise AssertionError("never won")

    lost = together(WRITERS, move)
    assert all(isinstance(count, int) for count in lost), lost
    with registry.read() as session:
        moves = history(session, "rte", alias="champion")
    assert Counter(move.to_version for move in moves) == Counter(range(1, WRITERS + 2))
    assert {move.actor for move in moves[1:]} == {f"process-{process}" for process in range(WRITERS)}
    check(registry)


def test_releases_are_numbered_without_gap_and_one_manifest_is_one_release(
    registry: Database, write: Any, together: Together, new_version: Any, new_release: Any, change: dict[str, Any]
) -> None:
    with registry.write() as session:
        for task in ("rte", "sst"):
            register_version(session, new_version(task), **change)

    def assemble(process: int) -> list[str]:
        names = []
        with write() as own:
            for content in ("common", f"own of {process}"):
                with own.write() as session:
                    new = new_release(content, tasks={"sst": 1, "rte": 1} if process % 2 else {"rte": 1, "sst": 1})
                    names.append(register_release(session, new, **by(process)).name)
        return names

    given = together(WRITERS, assemble)
    assert all(isinstance(names, list) for names in given), given
    assert len({common for common, _ in given}) == 1
    with registry.read() as session:
        releases = list_releases(session)
    assert [release.name for release in releases] == [f"r{number}" for number in range(1, WRITERS + 2)]
    assert {name for names in given for name in names} == {release.name for release in releases}
    check(registry)


def test_of_all_that_create_one_name_exactly_one_wins(
    registry: Database, write: Any, together: Together, spec: Any, new_backbone: Any
) -> None:
    creations: dict[str, Callable[[Any, int], object]] = {
        "team": lambda session, process: create_team(session, "ops", **by(process)),
        "task": lambda session, process: register_task(session, spec("new"), team="nlu", **by(process)),
        "backbone": lambda session, process: pin_backbone(
            session, new_backbone("large", content=f"of {process}"), **by(process)
        ),
    }

    def create(process: int) -> list[str]:
        outcomes = []
        with write() as own:
            for kind, creation in creations.items():
                try:
                    with own.write() as session:
                        creation(session, process)
                    outcomes.append(f"{kind} made")
                except AlreadyExists:
                    outcomes.append(f"{kind} taken")
        return outcomes

    counts = Counter(outcome for outcomes in together(WRITERS, create) for outcome in outcomes)
    assert counts == {f"{kind} {end}": n for kind in creations for end, n in (("made", 1), ("taken", WRITERS - 1))}
    with registry.read() as session:
        assert [team.name for team in list_teams(session)] == ["nlu", "ops", "search"]
        assert [task.name for task in list_tasks(session)] == ["new", "rte", "sst"]
        assert [backbone.name for backbone in list_backbones(session)] == ["large", "tiny"]
    check(registry)


def test_one_backbone_that_all_pin_is_one_backbone(
    registry: Database, write: Any, together: Together, new_backbone: Any
) -> None:
    def pin(process: int) -> Backbone:
        with write() as own, own.write() as session:
            return pin_backbone(session, new_backbone("large"), **by(process))

    pinned = together(WRITERS, pin)
    assert pinned == [pinned[0]] * WRITERS
    with registry.read() as session:
        assert list_backbones(session)[0] == pinned[0]
    check(registry)


def test_all_kinds_of_changes_at_once_fail_only_where_a_rule_forbids_them(
    registry: Database,
    write: Any,
    together: Together,
    spec: Any,
    new_version: Any,
    new_release: Any,
    change: dict[str, Any],
) -> None:
    """Two tasks that are retired in favour of each other, while releases hold both: whoever locks in another order than
    the others would wait for them in a circle."""
    with registry.write() as session:
        for task in ("rte", "sst"):
            for trial in "ab":
                version = register_version(session, new_version(task, trial=trial), **change)
                promote(session, version.reference, "champion", expect=None, **change)

    def work(process: int) -> list[str]:
        task, other = ("rte", "sst") if process % 2 else ("sst", "rte")
        one, two = (VersionReference(task=task, number=number) for number in (1, 2))
        both = {task: 1, other: 2}
        me = by(process)
        described = spec(task, description=f"by {process}")
        steps: list[Callable[[Any], object]] = [
            lambda session: register_version(session, new_version(task, trial=f"of {process}"), **me),
            lambda session: promote(session, one, "champion", expect=None, **me),
            lambda session: promote(session, two, "champion", expect=None, **me),
            lambda session: retire_task(session, task, Retirement(reason="x", superseded_by=other), **me),
            lambda session: register_release(session, new_release(f"of {process}", tasks=both), **me),
            lambda session: revive_task(session, task, **me),
            lambda session: update_task(session, described, **me),
            lambda session: rollback(session, task, "champion", **me),
            lambda session: register_release(session, new_release(f"again of {process}", tasks=both), **me),
        ]
        outcomes = []
        with write() as own:
            for number, step in enumerate(steps[process % 9 :] + steps[: process % 9]):
                try:
                    with own.write() as session:
                        step(session)
                    outcomes.append("done")
                except NotAllowed:  # it is retired just now, or has nothing to go back to
                    outcomes.append("forbidden")
                except Exception as error:  # noqa: BLE001 - told to the parent
                    outcomes.append(f"{number}: {type(error).__name__}: {error}")
        return outcomes

    outcomes = Counter(outcome for outcomes in together(WRITERS, work) for outcome in outcomes)
    assert outcomes.keys() == {"done", "forbidden"} or outcomes.keys() == {"done"}, outcomes
    check(registry)
    with registry.read() as session:
        names = [release.name for release in list_releases(session)]
        assert names == [f"r{number}" for number in range(1, len(names) + 1)]
        for task in ("rte", "sst"):
            numbers = [version.number for version in list_versions(session, task)]
            assert numbers == list(range(1, len(numbers) + 1))
