"""What `trunkline backbone migrate` plans and what came of it, as tables and as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cli.rendering import number_column, print_line, print_table
from registry.domain.migration import Outcome, RepeatedTrial, Replacement, TaskMigration
from registry.domain.records import Version


@dataclass(frozen=True)
class Estimate:
    """What a task's trials will cost."""

    train_rows: int
    dev_rows: int
    registered: tuple[int, ...]
    """Versions that the first trials have made already; the rest of this is about the others."""
    layer_passes: float
    old_seconds: tuple[float | None, ...]
    """How long the trials took that are repeated; None where that was not kept."""


@dataclass(frozen=True)
class PlannedTask:
    migration: TaskMigration
    estimate: Estimate | None
    problem: str
    """Why there is no estimate, though there should be one."""


@dataclass(frozen=True)
class MigratedTask:
    migration: TaskMigration
    made: tuple[Version, ...] = ()
    """Of its trials, in their order."""
    replacement: Replacement | None = None
    problem: str = ""
    """Why its trials did not come to their end."""


def step_words(step: RepeatedTrial) -> str:
    of = "" if step.teacher is None else f" of /{step.teacher}"
    return f"{step.kind}{of}, k {step.frozen_depth}, l {step.task_layers}, as /{step.repeats}"


def plan_document(old: str, new: str, alias: str, planned: Sequence[PlannedTask]) -> dict[str, Any]:
    estimates = [one.estimate for one in planned if one.estimate is not None]
    return {
        "old": old,
        "new": new,
        "alias": alias,
        "tasks": [
            {
                **one.migration.model_dump(mode="json"),
                "estimate": None if one.estimate is None else vars(one.estimate),
                "problem": one.problem or None,
            }
            for one in planned
        ],
        "total": {
            "trials": sum(len(one.old_seconds) for one in estimates),
            "layer_passes": sum(one.layer_passes for one in estimates),
            "old_seconds": sum(_known(estimates)),
            "trials_with_seconds": len(_known(estimates)),
        },
    }


def print_plan(planned: Sequence[PlannedTask]) -> None:
    if not planned:
        print_line("no active task")
        return
    print_table(
        [
            "task",
            "version",
            "outcome",
            "trials",
            number_column("layer passes"),
            number_column("old runs took"),
            "remarks",
        ],
        [
            (
                one.migration.task,
                _number(one.migration.version),
                one.migration.outcome,
                "; ".join(_step_cells(one)),
                f"{one.estimate.layer_passes:,.0f}" if one.estimate else "",
                _seconds([one.estimate]) if one.estimate else "",
                "; ".join(filter(None, (one.migration.reason, *one.migration.notes, one.problem))),
            )
            for one in planned
        ],
    )
    estimates = [one.estimate for one in planned if one.estimate is not None]
    count = sum(len(one.old_seconds) for one in estimates)
    print_line("")
    print_line(_counts(planned))
    unread = sum(bool(one.problem) for one in planned)
    print_line(
        f"to run: {count} trial{'s' if count != 1 else ''}, {sum(one.layer_passes for one in estimates):,.0f} layer "
        "passes (a layer's forward over one row is 1, its backward 2)"
        + (f"; not counted: {unread} whose cost is not known" if unread else "")
    )
    if took := _seconds(estimates):
        print_line(f"estimated from the old runs: {took}, on a machine and with layers like theirs")


def migration_document(old: str, new: str, alias: str, done: Sequence[MigratedTask]) -> dict[str, Any]:
    return {
        "old": old,
        "new": new,
        "alias": alias,
        "tasks": [
            {
                **one.migration.model_dump(mode="json"),
                "made": [version.number for version in one.made],
                "replacement": one.replacement
                and {**one.replacement.model_dump(mode="json"), "gain": one.replacement.gain},
                "problem": one.problem or None,
            }
            for one in done
        ],
        "run": list(_promotions(done, alias)),
    }


def print_migration(done: Sequence[MigratedTask], alias: str, new: str) -> None:
    if not done:
        print_line("no active task")
        return
    print_table(
        ["task", "was", "outcome", "now", "change", "remarks"],
        [
            (
                one.migration.task,
                " ".join([_number(one.migration.version), *_score(one.replacement, old=True)]),
                _outcome(one),
                " ".join([_number(one.replacement.number), *_score(one.replacement, old=False)])
                if one.replacement
                else "",
                _change(one.replacement),
                "; ".join(filter(None, (one.migration.reason, *one.migration.notes, one.problem))),
            )
            for one in done
        ],
    )
    commands = list(_promotions(done, alias))
    if commands:
        print_line("")
        print_line("nothing was promoted; what is good enough:")
        for command in commands:
            print_line(f"  {command}")
    if commands or any(one.migration.outcome is Outcome.VALID for one in done):
        print_line(f"a release on it: trunkline release assemble --select {alias} --backbone {new}")


def _step_cells(one: PlannedTask) -> Iterator[str]:
    registered = one.estimate.registered if one.estimate else ()
    for at, step in enumerate(one.migration.steps):
        yield step_words(step) + (f" (there already: /{registered[at]})" if at < len(registered) else "")


def _counts(planned: Sequence[PlannedTask]) -> str:
    words = {
        Outcome.VALID: "valid",
        Outcome.RETRAIN: "to train again",
        Outcome.IMPOSSIBLE: "impossible",
        Outcome.LEFT_OUT: "left out",
    }
    outcomes = [one.migration.outcome for one in planned]
    return "tasks: " + ", ".join(f"{outcomes.count(one)} {said}" for one, said in words.items() if one in outcomes)


def _known(estimates: Sequence[Estimate]) -> list[float]:
    return [seconds for one in estimates for seconds in one.old_seconds if seconds is not None]


def _seconds(estimates: Sequence[Estimate]) -> str:
    """How long the old runs took together; empty where that was kept of none."""
    known, count = _known(estimates), sum(len(one.old_seconds) for one in estimates)
    if not known:
        return ""
    part = "" if len(known) == count else f" ({len(known)} of {count} recorded)"
    return f"{sum(known):,.0f} s{part}"


def _number(version: int | None) -> str:
    return "" if version is None else f"/{version}"


def _score(found: Replacement | None, *, old: bool) -> list[str]:
    score = found and (found.score if old else found.new_score)
    return [] if found is None or score is None else [f"{found.metric} {score:.4f}"]


def _outcome(one: MigratedTask) -> str:
    if one.problem:
        return "failed"
    return "trained again" if one.replacement else one.migration.outcome


def _change(found: Replacement | None) -> str:
    if found is None:
        return ""
    return found.not_compared if found.gain is None else f"{found.gain:+.4f}"


def _promotions(done: Sequence[MigratedTask], alias: str) -> Iterator[str]:
    for one in done:
        if one.replacement is not None:
            yield f"trunkline task promote {one.migration.task}/{one.replacement.number} --alias {alias}"
