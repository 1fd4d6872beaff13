"""A depth search: what was asked for, the trials it is made of, and what it chose."""

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import Field

from registry.domain.plain_data import Plain
from registry.domain.references import Name

Strategy = Literal["halving", "exhaustive"]
Rule = Literal["parsimonious", "best"]
Initialisation = Literal["teacher", "backbone"]
"""Whose layers k'+1..k'+l a student begins as (the paper's figure 2)."""


class SearchState(StrEnum):
    RUNNING = "running"
    """Under way, or interrupted: the same command goes on with it."""
    FINISHED = "finished"


class TrialState(StrEnum):
    """Where a trial of the ledger stands.

    waiting ─> running ─> paused (reached its rung) ─> running … ─> finished
                     └──> failed
    A paused trial that is never promoted stays paused: the search stopped it early.
    """

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    FAILED = "failed"


class SearchOptions(Plain):
    """Everything that decides which trials a search may run, and how it chooses between them."""

    layers: tuple[int, ...] = Field(min_length=1)
    """L of the teachers, ascending."""
    seeds: int = Field(ge=1)
    """Runs a configuration gets at most: seeds 0, 1, …."""
    learning_rates: tuple[float, ...] = Field(min_length=1)
    students: tuple[int, ...] = ()
    """l of the students, ascending; none asks for teachers only."""
    student_depths: tuple[int, ...] | None = None
    """k' of the students; None: a small grid from the teacher's k upwards."""
    initialisations: tuple[Initialisation, ...] = ("teacher",)
    strategy: Strategy = "halving"
    rule: Rule = "parsimonious"
    recipe: Mapping[str, Any]
    """The teachers' recipe, but for the learning rate."""
    student_recipe: Mapping[str, Any]
    """The students' recipe, with their distillation but for its initialisation."""
    head: Mapping[str, Any]

    def in_precision(self, precision: str) -> Self:
        """The same, but that training multiplies in this."""
        recipes = {name: {**getattr(self, name), "precision": precision} for name in ("recipe", "student_recipe")}
        return self.model_copy(update=recipes)


def state_between_runs(epochs_done: int) -> TrialState:
    """Of a trial that nobody runs and that has not ended."""
    return TrialState.PAUSED if epochs_done else TrialState.WAITING


class TrialShape(Plain):
    """What tells the trials of one search apart."""

    frozen_depth: int = Field(ge=0)
    task_layers: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    seed: int = Field(ge=0)
    teacher: int | None = None
    """Version number; None: a teacher itself."""
    initialisation: Initialisation | None = None
    """Of a student."""

    @property
    def words(self) -> str:
        """For people."""
        begun = f" from {self.initialisation}" if self.initialisation else ""
        kind = "teacher" if self.teacher is None else f"student of /{self.teacher}{begun}"
        return f"{kind}, k {self.frozen_depth}, l {self.task_layers}, rate {self.learning_rate:g}, seed {self.seed}"


class PlannedTrial(Plain):
    """A trial that a search wants in the ledger."""

    key: str
    """Content key: digest of everything that decides the outcome."""
    shape: TrialShape
    epochs: int = Field(ge=1)


class TrialProgress(Plain):
    """How far a trial came."""

    epochs_done: int = Field(ge=0)
    curve: Mapping[int, float]
    """As in `LedgerTrial`; of the whole trial, not of this attempt alone."""
    seconds: float = Field(ge=0)
    """Of this attempt."""
    layer_passes: float = Field(ge=0)
    """As in `LedgerTrial`."""


class LedgerTrial(Plain):
    """One trial of the ledger."""

    key: str
    """Content key: digest of everything that decides the outcome."""
    shape: TrialShape
    state: TrialState
    epochs: int
    """Of the whole run."""
    epochs_done: int = 0
    curve: Mapping[int, float] = {}
    """Epoch (from 1) -> the task's metric on the dev data, in the training precision."""
    score: float | None = None
    """Of a finished trial: the task's metric as registered, in fp32, at the best epoch."""
    version: int | None = None
    """Of a finished trial."""
    error: str | None = None
    """Of a failed trial, or of its last attempt that broke off."""
    attempts: int = 0
    """Those that broke off, by a crash or in silence."""
    seconds: float = 0.0
    """Spent on it in all, by every attempt."""
    layer_passes: float = 0.0
    """Of the epochs that it has done, per training example: a layer's forward counts 1, its backward 2."""
    worker: str | None = None
    """Who runs it, while it is running."""
    lease_until: datetime | None = None

    def let_go(self) -> Self:
        """As it waits to be run by another process."""
        return self.model_copy(
            update={"state": state_between_runs(self.epochs_done), "worker": None, "lease_until": None}
        )


class SearchChoice(Plain):
    """What a search chose."""

    layers: int
    """L."""
    learning_rate: float
    teacher: int
    """Version number of its best run."""
    statistic: str
    """What the numbers it was chosen by are, such as "mean of 3 seeds"."""
    students: Mapping[int, int] = {}
    """l -> version number of the best student of so many layers, at any depth."""


class NewSearch(Plain):
    task: Name
    spec_revision: int
    backbone: Name
    key: str
    """Digest of everything that decides its outcome: asking for the same again goes on with it."""
    train_digest: str
    dev_digest: str
    options: SearchOptions
    exhaustive_layer_passes: float = Field(ge=0)
    """What the paper's protocol over the same grid costs, per training example, in the unit of `LedgerTrial`."""


class Search(NewSearch):
    number: int
    """Counted from 1 within the task."""
    backbone_layers: int
    metric: str
    state: SearchState
    choice: SearchChoice | None
    mlflow_run: str | None
    runner: str | None
    """The process that drives it now, or did until it was killed; None once it was left or finished."""
    runner_until: datetime | None
    created_at: datetime
    created_by: str
    finished_at: datetime | None
    trials: tuple[LedgerTrial, ...] = ()
    """In the order in which the search asked for them."""

    def driven(self, is_driving: Callable[[str, datetime], bool]) -> Self:
        """As it stands now that some processes have ended without a word: what those held is nobody's.

        Args:
            is_driving: whether the process of a name, whose lease ends at a time, still is at work.
        """
        trials = tuple(
            trial.let_go()
            if trial.worker and trial.lease_until and not is_driving(trial.worker, trial.lease_until)
            else trial
            for trial in self.trials
        )
        if self.runner is None or self.runner_until is None or is_driving(self.runner, self.runner_until):
            return self.model_copy(update={"trials": trials})
        return self.model_copy(update={"trials": trials, "runner": None, "runner_until": None})

    @property
    def standing(self) -> str:
        """The state in a word for people: one that nobody drives now, for whatever reason, was interrupted."""
        return "interrupted" if self.state is SearchState.RUNNING and self.runner is None else self.state


def process_words(name: str) -> str:
    """A process named "host/…/number:beginning", for people; any other name as it is."""
    place, _, process = name.rpartition("/")
    return f"process {process.partition(':')[0]} on {place.partition('/')[0]}" if place else name
