"""The number of queries does not grow with the rows: the same statements are sent for 3 of a thing as for 60."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from registry.database.engine import Database
from registry.domain.records import NewRelease, Retirement, TaskSearch
from registry.domain.references import AliasReference, VersionReference
from registry.domain.searches import TrialProgress
from registry.services import aliases, audit, backbones, releases, searches, tasks, teams, trials, versions

FEW, MANY = 3, 60
LATER = datetime(2026, 5, 2, tzinfo=UTC)
_RUNNER: dict[str, Any] = {"runner": "a", "until": LATER, "is_gone": lambda _: False}


@contextmanager
def counting(session: Session) -> Iterator[list[str]]:
    """The statements that are sent meanwhile; one for many rows of an insert is one."""
    sent: list[str] = []

    def count(*arguments: Any) -> None:
        sent.append(arguments[2])

    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", count)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", count)


class Grown:
    """A registry in which there is so much of everything: tasks, versions of each, releases of all, moves, teams."""

    def __init__(self, database: Database, make: Mapping[str, Callable[..., Any]], change: dict[str, Any]) -> None:
        self.database = database
        self._make = make
        self._change = change
        self.size = 0

    def name(self, number: int) -> str:
        return f"task-{number:03}"

    @property
    def names(self) -> list[str]:
        return [self.name(number) for number in range(self.size)]

    def release(self, content: str) -> NewRelease:
        return self._make["release"](content, tasks=dict.fromkeys(self.names, 1))

    def grow(self, size: int) -> None:
        change = self._change
        with self.database.write() as session:
            for number in range(self.size, size):
                name = self.name(number)
                teams.create_team(session, f"team-{number}", **change)
                backbones.pin_backbone(session, self._make["backbone"](f"backbone-{number}"), **change)
                tasks.register_task(session, self._make["spec"](name), team="nlu", **change)
                new = self._make["version"](name, backbone=f"backbone-{number}")
                versions.register_version(session, new, **change)
                versions.register_version(session, self._make["version"]("rte", trial=name), **change)
                for task, version in ((name, 1), ("rte", number + 1)):
                    reference = VersionReference(task=task, number=version)
                    aliases.promote(session, reference, "champion", expect=None, **change)
                aliases.promote(
                    session, VersionReference(task="rte", number=1), f"alias-{number}", expect=None, **change
                )
                tasks.update_task(session, self._make["spec"]("rte", description=name), **change)
                searches.begin_search(session, self._make["search"](content=name), **_RUNNER, **change)
            wanted = [self._make["trial"](name) for name in map(self.name, range(size))]
            trials.ask_for(session, searches.get_search(session, "rte", 1), wanted)
            self.size = size
            for content in range(size):
                releases.register_release(session, self.release(f"of {size}: {content}"), **change)


@pytest.fixture
def grown(
    registry: Database,
    spec: Any,
    new_backbone: Any,
    new_version: Any,
    new_release: Any,
    new_search: Any,
    planned_trial: Any,
    change: dict[str, Any],
) -> Grown:
    make = {"spec": spec, "backbone": new_backbone, "version": new_version, "release": new_release}
    make |= {"search": new_search, "trial": planned_trial}
    built = Grown(registry, make, change)
    built.grow(FEW)
    return built


READING: dict[str, Callable[[Session, Grown], Any]] = {
    "list tasks": lambda session, of: tasks.list_tasks(session),
    "find tasks": lambda session, of: tasks.find_tasks(
        session, TaskSearch(words=("task",), team="nlu", alias="champion", type="classification")
    ),
    "show a task": lambda session, of: tasks.get_task(session, "rte"),
    "a task at a time": lambda session, of: tasks.task_at(session, "rte", of._change["at"]),
    "list versions": lambda session, of: versions.list_versions(session, "rte", backbone="tiny"),
    "show a version": lambda session, of: versions.get_version(session, AliasReference(task="rte", alias="champion")),
    "name versions": lambda session, of: versions.get_versions(
        session, [VersionReference(task=name, number=1) for name in of.names]
    ),
    "name versions by alias": lambda session, of: versions.get_versions(
        session, [AliasReference(task=name, alias="champion") for name in of.names]
    ),
    "select champions": lambda session, of: releases.select_versions(session, "champion"),
    "read members": lambda session, of: releases.members_of(
        session, releases.select_versions(session, "champion"), at=LATER
    ),
    "alias moves": lambda session, of: aliases.history(session, "rte"),
    "aliases at a time": lambda session, of: aliases.aliases_at(session, "rte", of._change["at"]),
    "list releases": lambda session, of: releases.list_releases(session),
    "find releases": lambda session, of: releases.find_releases(session, holding=of.name(0)),
    "show a release": lambda session, of: releases.get_release(session, "latest"),
    "a release at a time": lambda session, of: releases.release_at(session, of._change["at"]),
    "release history": lambda session, of: releases.history(session),
    "release history of a task": lambda session, of: releases.history(session, task=of.name(0)),
    "list backbones": lambda session, of: backbones.list_backbones(session),
    "show a backbone": lambda session, of: backbones.get_backbone(session, "tiny"),
    "list teams": lambda session, of: teams.list_teams(session),
    "list searches": lambda session, of: searches.list_searches(session),
    "list searches of a task": lambda session, of: searches.list_searches(session, "rte"),
    "show a search": lambda session, of: searches.get_search(session, "rte", 1).trials,
    "list events": lambda session, of: audit.list_events(session),
}


def ask_for_trials(session: Session, of: Grown, kind: str) -> None:
    """As many trials as there are tasks: all of them new, or registered by training already."""
    wanted = [of._make["trial"](f"{kind}{name}") for name in of.names]
    trials.ask_for(session, searches.get_search(session, "rte", 2), wanted)


def run_a_trial(session: Session, of: Grown) -> None:
    """Asks for it and for the others that the newest search wants, claims it, holds it and finishes it."""
    ask_for_trials(session, of, "new ")
    new = of._make["version"]("rte", trial=f"new {of.name(0)}")
    at = of._change["at"]
    claimed = trials.claim_trial(session, "rte", new.trial_key, worker="a", until=LATER, is_gone=lambda _: False, at=at)
    assert claimed
    searches.hold_search(session, searches.get_search(session, "rte", 2), until=LATER)
    trials.hold_trials(session, "rte", worker="a", until=LATER)
    version = versions.register_version(session, new, **of._change)
    progress = TrialProgress(epochs_done=5, curve={5: 0.75}, seconds=1.0, layer_passes=1.0)
    trials.finish_trial(session, "rte", new.trial_key, version=version, score=0.75, progress=progress)


WRITING: dict[str, Callable[[Session, Grown], Any]] = {
    "register a release": lambda session, of: releases.register_release(session, of.release("new"), **of._change),
    "register a known release": lambda session, of: releases.register_release(
        session, of.release(f"of {of.size}: 0"), **of._change
    ),
    "register a version": lambda session, of: versions.register_version(
        session, of._make["version"]("rte", trial="new"), **of._change
    ),
    "promote": lambda session, of: aliases.promote(
        session, VersionReference(task="rte", number=2), "champion", expect=None, **of._change
    ),
    "promote to where it is": lambda session, of: aliases.promote(
        session, VersionReference(task=of.name(0), number=1), "champion", expect=None, **of._change
    ),
    "roll back": lambda session, of: aliases.rollback(session, "rte", "champion", **of._change),
    "update a task": lambda session, of: tasks.update_task(
        session, of._make["spec"]("rte", description="new"), **of._change
    ),
    "begin a search": lambda session, of: searches.begin_search(
        session, of._make["search"](content="new"), **_RUNNER, **of._change
    ),
    "go on with a search": lambda session, of: searches.begin_search(
        session, of._make["search"](content=of.name(0)), **_RUNNER, **of._change
    ),
    "ask for trials": lambda session, of: ask_for_trials(session, of, ""),
    "run a trial": run_a_trial,
    "retire a task": lambda session, of: tasks.retire_task(session, "rte", Retirement(reason="x"), **of._change),
}


def test_reading_sends_as_many_queries_for_many_rows_as_for_few(grown: Grown) -> None:
    def sent() -> dict[str, int]:
        counts = {}
        for what, read in READING.items():
            with grown.database.read() as session, counting(session) as statements:
                assert read(session, grown)
            counts[what] = len(statements)
        return counts

    few = sent()
    grown.grow(MANY)
    assert sent() == few
    assert max(few.values()) <= 8


def test_writing_sends_as_many_statements_for_many_rows_as_for_few(grown: Grown) -> None:
    def sent() -> dict[str, int]:
        counts = {}
        for what, write in WRITING.items():
            with grown.database.write() as session, counting(session) as statements:
                write(session, grown)
                session.flush()
                counts[what] = len(statements)
                session.rollback()
        return counts

    few = sent()
    grown.grow(MANY)
    assert sent() == few


def test_members_are_read_as_the_single_objects_are(grown: Grown, spec: Any, change: dict[str, Any]) -> None:
    with grown.database.write() as session:
        later = {**change, "at": change["at"] + timedelta(days=1)}
        tasks.update_task(session, spec(grown.name(1), labels=["yes", "no"]), **later)
    references = [VersionReference(task=name, number=1) for name in reversed(grown.names)]
    with grown.database.read() as session:
        found = versions.get_versions(session, references)
        assert found == [versions.get_version(session, reference) for reference in references]
        for member, reference in zip(releases.members_of(session, found, at=LATER), references, strict=True):
            assert member.version.reference == reference
            assert member.spec == tasks.get_spec(session, reference.task, 1)
            assert member.trained_on == backbones.get_backbone(session, member.version.backbone)


@pytest.mark.slow
def test_no_operation_reads_a_whole_big_table_where_an_index_should_serve() -> None:
    program = Path(__file__).parents[3] / "benchmarks" / "registry_scale.py"
    small = ["--database", "sqlite", "--tasks", "60", "--versions", "10", "--releases", "10", "--rounds", "1", "--json"]
    done = subprocess.run([sys.executable, "-P", program, *small], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)
    assert len(report["operations"]) > 20
    assert all(milliseconds > 0 for milliseconds in report["commands"].values())
