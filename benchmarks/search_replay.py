"""A search replayed on trials that were run before: the plan is a pure function, so it needs their curves alone.

Which half of the dev data selects, which seeds there are, and which protocol is followed can so be varied without
training anything again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from modeling.encoder_layers import step_layer_passes
from pipelines.search.plan import next_step
from pipelines.search.rungs import first_runs
from pipelines.search.runs import Run, has_reached
from registry.domain.searches import LedgerTrial, SearchChoice, SearchOptions, TrialShape, TrialState

Curve = Mapping[int, float]
"""Epoch (from 1) -> the task's metric on the rows that select."""

Look = Callable[[Run], Curve | None]
"""The scored epochs of a run up to where it is wanted; None where it was not run so far yet."""

Name = Callable[[TrialShape, int], int]
"""A version number for a finished run as it was after its best epoch."""


@dataclass(frozen=True)
class Replayed:
    choice: SearchChoice | None
    """None where runs are missing."""
    missing: tuple[Run, ...]
    trials: tuple[LedgerTrial, ...]

    def layer_passes(self, *, students: bool) -> float:
        """Per training example, of the branches' own layers: a forward counts 1, a backward 2."""
        return sum(trial.layer_passes for trial in self.trials if (trial.shape.teacher is not None) == students)


def replay(options: SearchOptions, backbone_layers: int, *, look: Look, name: Name, first_piece_only: bool) -> Replayed:
    """Runs a search on what is known, as far as that goes."""
    known: dict[TrialShape, LedgerTrial] = {}
    while True:
        step = next_step(options, backbone_layers, list(known.values()))
        if step.failure is not None:
            raise ValueError(f"the replayed search fails: {step.failure}")
        wanted = [run for run in step.wanted if run.shape not in known or not has_reached(known[run.shape], run)]
        curves = [(run, look(run)) for run in wanted]
        missing = tuple(run for run, curve in curves if curve is None)
        if step.choice is not None or missing:
            return Replayed(step.choice, missing, tuple(known.values()))
        for run, curve in curves:
            assert curve is not None  # noqa: S101 - else it is missing
            if run.until_epoch not in curve:
                raise ValueError(f"epoch {run.until_epoch} of {run.shape} was not scored, but a rung compares by it")
            before = known[run.shape].curve if run.shape in known else {}
            known[run.shape] = _trial(run, {**before, **curve}, options, name, first_piece_only=first_piece_only)


def best_epoch(curve: Curve, *, evaluate_from: int) -> int:
    """The scored epoch of the highest metric, of equals the earliest."""
    return max((epoch for epoch in curve if epoch >= evaluate_from), key=lambda epoch: (curve[epoch], -epoch))


def _trial(run: Run, curve: Curve, options: SearchOptions, name: Name, *, first_piece_only: bool) -> LedgerTrial:
    recipe = options.recipe if run.shape.teacher is None else options.student_recipe
    finished = run.until_epoch >= recipe["epochs"]
    best = best_epoch(curve, evaluate_from=recipe["evaluate_from"]) if finished else None
    return LedgerTrial(
        key=run.shape.model_dump_json(),
        shape=run.shape,
        state=TrialState.FINISHED if finished else TrialState.PAUSED,
        epochs=recipe["epochs"],
        epochs_done=run.until_epoch,
        curve=curve,
        score=None if best is None else curve[best],
        version=None if best is None else name(run.shape, best),
        layer_passes=run.until_epoch * step_layer_passes(run.shape.task_layers, first_piece_only=first_piece_only),
    )


def scored_epochs(epochs: int, evaluate_from: int, rungs: Sequence[int]) -> list[int]:
    """The epochs after which a run has to be scored so that every replay finds what it asks for."""
    return sorted({*(rung for rung in rungs if rung <= epochs), *range(evaluate_from, epochs + 1)})


def peaked_search(
    options: SearchOptions, backbone_layers: int, *, peak: int, contested: bool = False, first_piece_only: bool
) -> tuple[LedgerTrial, ...]:
    """The trials that a search runs when the metric rises with L up to `peak` and falls after it.

    Args:
        contested: every further run of a teacher is below its first one by so much that the other depth of the last
            rung comes into question too. Else all runs of a depth are alike, and it does not.
    """
    names: dict[tuple[TrialShape, int], int] = {}
    first = first_runs(options.seeds)

    def look(run: Run) -> Curve:
        value = 1.0
        if run.shape.teacher is None:
            value -= 0.1 * abs(run.shape.task_layers - peak)
            if contested and run.shape.seed >= first:
                value -= 0.22 if run.shape.task_layers == peak else 0.35
        return dict.fromkeys(range(1, run.until_epoch + 1), value)

    found = replay(
        options,
        backbone_layers,
        look=look,
        name=lambda shape, epoch: names.setdefault((shape, epoch), len(names) + 1),
        first_piece_only=first_piece_only,
    )
    return found.trials
