from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from registry.database.engine import Database
from registry.domain.records import NewRelease, Release, Retirement
from registry.domain.references import VersionReference
from registry.errors import NotAllowed, NotFound, UsageError
from registry.services.aliases import promote
from registry.services.audit import list_events
from registry.services.releases import get_release, history, list_releases, register_release, select_versions
from registry.services.tasks import retire_task
from registry.services.versions import register_version


@pytest.fixture
def trained(registry: Database, new_version: Any, change: dict[str, Any]) -> Database:
    """rte/1, rte/2 (champion) and sst/1 (champion)."""
    with registry.write() as session:
        for task, trial in (("rte", "a"), ("rte", "b"), ("sst", "a")):
            version = register_version(session, new_version(task, trial=trial), **change)
            promote(session, version.reference, "champion", expect=None, **change)
    return registry


def test_a_release_is_kept_as_it_was_registered(trained: Database, new_release: Any, change: dict[str, Any]) -> None:
    new = new_release(tasks={"sst": 1, "rte": 2})
    with trained.write() as session:
        release = register_release(session, new, **change)
    written = {"name": "r1", "state": "verified", "created_at": change["at"], "created_by": change["actor"]}
    assert release == Release.model_validate(new.model_dump() | written)
    with trained.read() as session:
        assert get_release(session, "r1") == release


def test_releases_are_numbered_in_their_order(trained: Database, new_release: Any, change: dict[str, Any]) -> None:
    with trained.write() as session:
        for content in "abc":
            register_release(session, new_release(content), **change)
    with trained.read() as session:
        assert [release.name for release in list_releases(session)] == ["r1", "r2", "r3"]
        assert get_release(session, "latest").name == "r3"


def test_the_same_manifest_is_the_same_release(trained: Database, new_release: Any, change: dict[str, Any]) -> None:
    with trained.write() as session:
        first = register_release(session, new_release("a"), **change)
        register_release(session, new_release("b"), **change)
        again = register_release(session, new_release("a", gates={"passed": True, "findings": []}), **change)
        assert again == first
    with trained.read() as session:
        assert len(list_releases(session)) == 2
        assert len(list_events(session, object="release r1")) == 1


def test_processes_that_register_at_once_get_numbers_without_gap_or_repeat(
    trained: Database, database_url: str, together: Callable[..., list[Any]], new_release: Any, change: dict[str, Any]
) -> None:
    def register(process: int) -> list[str]:
        own = Database.open(database_url)
        names = []
        for content in ("common", f"own of {process}"):
            with own.write() as session:
                names.append(register_release(session, new_release(content), **change).name)
        own.close()
        return names

    given = together(4, register)
    assert len({common for common, _ in given}) == 1
    assert {name for names in given for name in names} == {f"r{number}" for number in range(1, 6)}


def test_a_task_takes_its_place_until_its_sunset(trained: Database, new_release: Any, change: dict[str, Any]) -> None:
    tomorrow = change["at"].date() + timedelta(days=1)
    with trained.write() as session:
        retire_task(session, "sst", Retirement(reason="merged", sunset_on=tomorrow), **change)
        assert register_release(session, new_release("today", tasks={"rte": 1, "sst": 1}), **change).name == "r1"
    later = change | {"at": change["at"] + timedelta(days=1)}
    with pytest.raises(NotAllowed, match="in a new release: sst"), trained.write() as session:
        register_release(session, new_release("tomorrow", tasks={"rte": 2, "sst": 1}), **later)


def test_retired_tasks_take_no_place_in_a_new_release(
    trained: Database, new_release: Any, change: dict[str, Any]
) -> None:
    with trained.write() as session:
        old = register_release(session, new_release("old", tasks={"rte": 1, "sst": 1}), **change)
        retire_task(session, "sst", Retirement(reason="merged"), **change)
        retire_task(session, "rte", Retirement(reason="merged"), **change)
    with pytest.raises(NotAllowed, match="in a new release: rte, sst; leave them out"), trained.write() as session:
        register_release(session, new_release("new", tasks={"sst": 1, "rte": 2}), **change)
    with trained.read() as session:
        assert list_releases(session) == [old]


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"tasks": {}}, UsageError, "at least one task"),
        ({"tasks": {"rte": 9}}, NotFound, "no version rte/9"),
        ({"tasks": {"new": 1}}, NotFound, "no task 'new'"),
        ({"backbone": "large"}, NotFound, "no backbone 'large'"),
    ],
)
def test_what_a_release_refers_to_exists(
    trained: Database, new_release: Any, change: dict[str, Any], fields: dict[str, Any], error: Any, said: str
) -> None:
    with pytest.raises(error, match=said), trained.write() as session:
        register_release(session, new_release(**fields), **change)
    with trained.write() as session:
        assert register_release(session, new_release(), **change).name == "r1"


def test_a_release_is_found_by_number_digest_or_as_the_latest(
    trained: Database, new_release: Any, change: dict[str, Any]
) -> None:
    digests = ["ab" * 32, "ab" * 31 + "cd", "12345678" * 8]
    with trained.write() as session:
        for digest in digests:
            register_release(session, new_release(manifest=digest), **change)
    with trained.read() as session:
        for number, digest in enumerate(digests, 1):
            assert get_release(session, f"r{number}").manifest == digest
            assert get_release(session, digest).name == f"r{number}"
        assert get_release(session, "12345678").name == "r3"
        with pytest.raises(UsageError, match="abababab begins the manifests of r2, r1: write more digits"):
            get_release(session, "abababab")
        for unknown in ("r4", "r10", "ffffffff", "12345678" * 7 + "12345679"):
            with pytest.raises(NotFound, match=f"no release {unknown}: `trunkline release list`"):
                get_release(session, unknown)
        for reference in ("", "r0", "r01", "1", "1234567", "R1", "ABABABAB", "../r1", "r1\n", "12345678" * 8 + "1"):
            with pytest.raises(UsageError, match="is no reference to a release"):
                get_release(session, reference)


def test_there_is_no_latest_before_the_first(registry: Database) -> None:
    with registry.read() as session, pytest.raises(NotFound, match="no release latest"):
        get_release(session, "latest")


def test_an_alias_selects_the_version_of_every_active_task_that_has_it(
    trained: Database, change: dict[str, Any]
) -> None:
    def selected(alias: str) -> list[str]:
        with trained.read() as session:
            return [str(version.reference) for version in select_versions(session, alias)]

    assert selected("champion") == ["rte/2", "sst/1"]
    assert selected("candidate") == []
    with trained.write() as session:
        promote(session, VersionReference(task="rte", number=1), "candidate", expect=None, **change)
        retire_task(session, "sst", Retirement(reason="merged"), **change)
    assert selected("champion") == ["rte/2"]
    assert selected("candidate") == ["rte/1"]
    with pytest.raises(UsageError, match="cannot be an alias"):
        selected("latest")


def test_a_limited_history_is_the_end_of_the_whole_one(registry: Database, new_version: Any, change: Any) -> None:
    with registry.write() as session:
        for trial in range(3):
            register_version(session, new_version(trial=str(trial)), **change)
        for number, version in enumerate((1, 2, 2, 3, 1)):
            new = NewRelease(
                manifest=f"{number:064x}",
                backbone="tiny",
                tasks={"rte": version},
                trunk_depth=2,
                layer_count=4 + number,
                gates={},
            )
            register_release(session, new, **change)
    with registry.read() as session:
        whole = history(session)
        for limit in range(1, 7):
            assert history(session, limit=limit) == whole[-limit:]
            assert history(session, task="rte", limit=limit) == history(session, task="rte")[-limit:]
