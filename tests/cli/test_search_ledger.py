"""The ledger of a search in the registry: what it holds, what it keeps of errors, and what it removes."""

from datetime import UTC, datetime, timedelta
from typing import Any

import filelock
import pytest
import yaml
from mlflow import MlflowClient

from cli import search_ledger
from cli.application import Context
from cli.search_ledger import RegistryLedger
from pipelines.tracking import LoggedTrial, Tracking
from pipelines.training.recipes import Recipe
from registry.domain.manifests import HeadConfig
from registry.domain.searches import LedgerTrial, NewSearch, PlannedTrial, SearchChoice, SearchOptions, TrialShape
from registry.domain.task_specs import TaskType
from registry.errors import LostRace
from registry.services import searches
from tests.waiting import eventually

KEY = "ab" * 32
SHAPE = TrialShape(frozen_depth=2, task_layers=2, learning_rate=1e-4, seed=0, teacher=None, initialisation=None)


@pytest.fixture
def ledger(trunkline, pinned, labelled) -> RegistryLedger:
    """Of a search that this process drives, with one trial."""
    trunkline.done("backbone", "pin", "small", pinned.backbone.source)
    trunkline.done("team", "create", "nlu")
    content = labelled("classification").fields
    path = trunkline.folder / "topic.yaml"
    path.write_text(
        yaml.safe_dump(content | {"task": "topic", "data": labelled("classification").write(trunkline.folder)})
    )
    trunkline.done("task", "register", path, "--team", "nlu")
    environ = trunkline.environ | {"TRUNKLINE_HOME": str(trunkline.home)}
    context = Context(environ=environ, cwd=trunkline.folder, clock=lambda: datetime.now(UTC))
    ledger = RegistryLedger(context, begun(context, "first"), Tracking(f"sqlite:///{trunkline.home}/mlflow.db", None))
    ledger.ask_for([PlannedTrial(key=KEY, shape=SHAPE, epochs=5)])
    return ledger


def begun(context: Context, runner: str, *, taken_over: bool = False, **changes: Any) -> Any:
    options = SearchOptions(
        layers=(2,),
        seeds=1,
        learning_rates=(1e-4,),
        students=(),
        recipe={"epochs": 5},
        student_recipe={"epochs": 10, "learning_rate": 1e-4},
        head={},
    )
    values = {
        "task": "topic",
        "spec_revision": 1,
        "backbone": "small",
        "key": "01" * 32,
        "train_digest": "02" * 32,
        "dev_digest": "03" * 32,
        "options": options,
        "exhaustive_layer_passes": 1.0,
    }
    now = context.now()
    with context.database.write() as session:
        return searches.begin_search(
            session,
            NewSearch.model_validate(values | changes),
            runner=runner,
            until=now + timedelta(minutes=2),
            is_gone=lambda _: taken_over,
            actor="ann",
            at=now,
        )


def the_trial(ledger: RegistryLedger) -> LedgerTrial:
    (trial,) = ledger.trials()
    return trial


def test_leases_are_put_off_while_the_search_waits_for_something_else(ledger, monkeypatch):
    monkeypatch.setattr(search_ledger, "LEASE", timedelta(seconds=0.4))
    assert ledger.claim(KEY)
    first = the_trial(ledger).lease_until
    with ledger.held():
        eventually(lambda: the_trial(ledger).lease_until > first, "the lease is put off")
        ledger.refuse_if_lost()


def test_a_search_that_was_taken_over_meanwhile_ends_at_its_next_word(ledger, monkeypatch):
    monkeypatch.setattr(search_ledger, "LEASE", timedelta(seconds=0.4))
    begun(ledger.context, "second", taken_over=True)
    with pytest.raises(LostRace, match="taken over"), ledger.held():
        eventually(lambda: ledger._lost is not None, "the search is found lost")
    with pytest.raises(LostRace, match="taken over"):
        ledger.refuse_if_lost()


def test_a_registry_that_is_away_for_moments_costs_no_search(ledger, monkeypatch):
    monkeypatch.setattr(search_ledger, "LEASE", timedelta(seconds=4))
    put_off, failed = RegistryLedger._put_off, []

    def at_first_away(of: RegistryLedger) -> None:
        if not failed:
            failed.append(True)
            raise OSError("the server restarts")
        put_off(of)

    monkeypatch.setattr(RegistryLedger, "_put_off", at_first_away)
    first = ledger.stand().runner_until
    with ledger.held():
        eventually(lambda: ledger.stand().runner_until != first, "the registry is asked again")
    assert failed


def test_an_error_is_kept_whatever_characters_are_in_it(ledger):
    assert ledger.claim(KEY)
    ledger.give_back(the_trial(ledger), seconds=1.0, error="died:\0\x1b[31m\nand no more")
    trial = the_trial(ledger)
    assert (trial.attempts, trial.error) == (
        1,
        "died:\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m and no more",
    )


def finished(ledger: RegistryLedger) -> None:
    choice = SearchChoice(layers=2, learning_rate=1e-4, teacher=1, statistic="one run", students={})
    with ledger.context.database.write() as session:
        searches.finish_search(session, ledger.search, choice, actor="ann", at=ledger.context.now())


def test_a_state_that_nobody_will_read_is_removed_and_one_that_somebody_writes_is_not(ledger):
    folder = ledger.context.settings.home / "trials" / KEY
    folder.mkdir(parents=True)
    ledger.forget_ended()
    assert folder.exists(), "the search may be gone on with"
    finished(ledger)
    with filelock.FileLock(folder.with_suffix(".lock")):
        ledger.forget_ended()
        assert folder.exists()
    ledger.forget_ended()
    assert not folder.exists()


def test_a_state_that_another_search_may_go_on_with_stays(ledger):
    folder = ledger.context.settings.home / "trials" / KEY
    folder.mkdir(parents=True)
    other = RegistryLedger(ledger.context, begun(ledger.context, "other", key="04" * 32), ledger.tracking)
    other.ask_for([PlannedTrial(key=KEY, shape=SHAPE, epochs=5)])
    finished(ledger)
    ledger.forget_ended()
    assert folder.exists()


def test_a_state_for_a_definition_that_is_no_longer_in_force_is_removed(ledger, trunkline):
    folder = ledger.context.settings.home / "trials" / KEY
    folder.mkdir(parents=True)
    path = trunkline.folder / "topic.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"labels": [*content["labels"], "another"]}))
    trunkline.done("task", "update", path, "--no-check-data")
    other = begun(ledger.context, "other", key="04" * 32, spec_revision=2)
    RegistryLedger(ledger.context, other, ledger.tracking).forget_ended()
    assert not folder.exists()


def test_the_run_of_a_trial_that_was_logged_by_a_killed_process_ends(ledger):
    tracking = ledger.tracking
    trial = LoggedTrial(
        task="topic",
        key=KEY,
        frozen_depth=SHAPE.frozen_depth,
        task_layers=SHAPE.task_layers,
        seed=SHAPE.seed,
        recipe=Recipe(learning_rate=1e-4),
        head=HeadConfig(type=TaskType.CLASSIFICATION, outputs=2),
        backbone="small",
        teacher=None,
        losses={5: 0.5},
        metrics={5: {"accuracy": 0.5}},
        best={"accuracy": 0.5},
    )
    client = MlflowClient(tracking_uri=tracking.uri)
    run = tracking.log_trial(trial)
    client.update_run(run, status="RUNNING")
    assert tracking.log_trial(trial) == run
    assert client.get_run(run).info.status == "FINISHED"


def test_the_run_of_a_search_that_failed_once_ends_well_when_it_is_gone_on_with(ledger):
    tracking = ledger.tracking
    run = tracking.open_search("topic", "topic#1", key="01" * 32, options={"rule": "best"})
    tracking.close_search(run, metrics={"layer_passes": 3.0}, tags={}, failed=True)
    tracking.close_search(run, metrics={"layer_passes": 5.0}, tags={"trunkline.teacher": "topic/1"})
    tracking.close_search(run, metrics={"layer_passes": 7.0}, tags={})
    found = MlflowClient(tracking_uri=tracking.uri).get_run(run)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["layer_passes"] == 5.0
    assert found.data.tags["trunkline.teacher"] == "topic/1"
