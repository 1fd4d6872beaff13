"""States of releases and channels; verifying a real release is in test_main_job.py."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from registry.database.engine import Database
from registry.domain.records import NewRelease
from registry.services.releases import register_release


@pytest.fixture
def releases(trunkline: Any, versions: Callable[..., Any]) -> None:
    """r1 and r2, verified, r3, a draft; channels staging, which takes verified ones, and production."""
    database = Database.open(f"sqlite:///{trunkline.home / 'registry.db'}")
    with database.write() as session:
        for number, gates in ((1, {"passed": True}), (2, {"passed": True}), (3, None)):
            new = NewRelease(
                manifest=f"{number:064x}", backbone="small", tasks={"rte": 1}, trunk_depth=1, layer_count=3, gates=gates
            )
            at = datetime(2026, 5, 1, tzinfo=UTC) + timedelta(minutes=number)
            register_release(session, new, actor="ann", at=at)
    database.close()
    trunkline.done("channel", "create", "staging", "--takes", "verified")
    trunkline.done("channel", "create", "production")


pytestmark = pytest.mark.usefixtures("releases")


def test_a_release_goes_live_and_back(trunkline: Any) -> None:
    promote = ("release", "promote")
    assert trunkline.done(*promote, "r1", "--channel", "staging") == "staging: new → r1\n"
    assert trunkline.done(*promote, "r2", "--channel", "staging", "--expect", "r1") == "staging: r1 → r2\n"
    assert trunkline.done(*promote, "r2", "--channel", "staging") == "r2 is live on staging already\n"
    assert trunkline.done("release", "revert", "--channel", "staging", "--expect", "r2") == "staging: r2 → r1\n"
    table = [line.split() for line in trunkline.done("channel", "list").splitlines()[2:]]
    assert [row[:3] for row in table] == [["production", "approved"], ["staging", "verified", "r1"]]
    kinds = [one["kind"] for one in trunkline("channel", "history", "staging", "--json").json]
    assert kinds == ["promote", "promote", "revert"]
    shown = trunkline.done("release", "list").splitlines()[2:]
    assert ["staging" in line for line in shown] == [True, False, False]


def test_production_takes_what_was_approved(trunkline: Any) -> None:
    refused = trunkline("release", "promote", "r1", "--channel", "production")
    assert (refused.code, "trunkline release approve r1" in refused.problem) == (4, True)
    assert trunkline.done("release", "approve", "r1", "--reason", "tried") == "r1 is approved\n"
    trunkline.done("release", "promote", "r1", "--channel", "production")
    refused = trunkline("release", "retire", "r1", "--reason", "old")
    assert (refused.code, "r1 is live on production" in refused.problem) == (4, True)
    assert trunkline.done("release", "retire", "r3", "--reason", "never wanted") == "r3 is retired\n"


def test_a_lost_race_ends_with_code_5(trunkline: Any) -> None:
    trunkline.done("release", "promote", "r1", "--channel", "staging")
    lost = trunkline("release", "promote", "r2", "--channel", "staging", "--expect", "none")
    assert (lost.code, "r1 is live on channel staging, but nothing was expected" in lost.problem) == (5, True)


def test_what_was_live_then(trunkline: Any) -> None:
    trunkline.done("release", "promote", "r1", "--channel", "staging")
    assert trunkline("channel", "history", "staging", "--at", "2026-04-01", "--json").json["release"] is None
    now = trunkline("channel", "history", "staging", "--at", "2027-01-01", "--json").json
    assert (now["channel"], now["release"]) == ("staging", "r1")
    assert "r1 was live on staging" in trunkline.done("channel", "history", "staging", "--at", "2027-01-01")
    assert trunkline.done("channel", "history", "production") == "nothing was ever live on production\n"


def test_what_there_is_not_is_refused(trunkline: Any) -> None:
    assert trunkline("release", "promote", "r9", "--channel", "staging").code == 1
    assert "did you mean staging" in trunkline("release", "revert", "--channel", "stagin").problem
    assert trunkline("channel", "create", "staging").code == 5
    assert trunkline("channel", "create", "x", "--takes", "draft").code == 2
    assert trunkline("release", "approve", "r3").code == 4
