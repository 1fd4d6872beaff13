"""What protocols cost, from unit costs: seconds and layer passes of `Trainer`'s and of a search's trials."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cost_setting import Setting
from search_replay import peaked_search
from unit_costs import Line, exhaustive_passes, exhaustive_seconds, fitted_line

from registry.domain.manifests import HeadConfig
from registry.domain.searches import LedgerTrial


@dataclass(frozen=True)
class UnitCosts:
    """Seconds a row, as lines over the layers, of one side."""

    epoch: Line
    evaluation: Line
    student_epoch: Line
    student_evaluation: Line

    @classmethod
    def of(cls, document: Mapping[str, Any], side: str) -> "UnitCosts":
        rows, dev_rows = document["setting"]["rows"], document["setting"]["dev_rows"]

        def line(kind: str, which: int, count: int) -> Line:
            points = [
                (int(name.split()[2]), statistics.median(one[which] for one in seconds) / count)
                for name, seconds in document["seconds"].items()
                if name.startswith(f"{side} {kind} ")
            ]
            return fitted_line(points) if points else Line(0.0, 0.0)

        return cls(
            line("teacher", 0, rows), line("teacher", 1, dev_rows), line("student", 0, rows),
            line("student", 1, dev_rows),
        )  # fmt: skip


def times(line: Line, count: float) -> Line:
    return Line(line.fixed * count, line.layer * count)


def trainer_seconds(setting: Setting, task: str, *, student_epochs: int) -> float | None:
    """The exhaustive protocol by `Trainer`, extrapolated to all rows of a task."""
    document = setting.kept(f"units-{task}")
    if document is None or not document["seconds"]:
        return None
    files, costs = setting.files(task), UnitCosts.of(document, "trainer")
    rows, dev_rows = len(files.train), len(files.dev)
    return exhaustive_seconds(
        layers=setting.layers,
        seeds=setting.seeds,
        epochs=setting.epochs,
        evaluations=setting.epochs - setting.recipe.evaluate_from + 1,
        students=setting.students,
        student_epochs=student_epochs,
        student_evaluations=student_epochs - -(-3 * student_epochs // 5) + 1,
        epoch=times(costs.epoch, rows),
        evaluation=times(costs.evaluation, dev_rows),
        student_epoch=times(costs.student_epoch, rows),
        student_evaluation=times(costs.student_evaluation, dev_rows),
        teacher_logits=costs.evaluation.at(setting.layers[len(setting.layers) // 2]) * rows,
    )


def trainer_passes(setting: Setting, task: str, *, teacher_layers: int) -> float:
    files = setting.files(task)
    evaluate_from = setting.student_recipe.evaluate_from
    return exhaustive_passes(
        backbone_layers=setting.backbone_layers,
        layers=setting.layers,
        seeds=setting.seeds,
        epochs=setting.epochs,
        evaluations=setting.epochs - setting.recipe.evaluate_from + 1,
        students=setting.students,
        student_depth=setting.backbone_layers - teacher_layers,
        student_epochs=setting.student_epochs,
        student_evaluations=setting.student_epochs - evaluate_from + 1,
        dev_share=len(files.dev) / len(files.train),
    )


@dataclass(frozen=True)
class SearchWork:
    """What a search's trials amount to."""

    passes: float
    """Layer passes per training example: steps, evaluations, and what the caches took."""
    seconds: float | None
    """By unit costs; None where there are none."""


def search_work(setting: Setting, task: str, trials: Sequence[LedgerTrial]) -> SearchWork:
    """Of the trials of a ledger or of a replay.

    Evaluations: after every epoch, and once more of the epoch that is kept. Caches: one forward through the trunk to
    the deepest layer that a teacher leaves after; where students leave deeper, one more to the deepest of these; and
    the forward of each teacher that was distilled.
    """
    files, document = setting.files(task), setting.kept(f"units-{task}")
    dev_share = len(files.dev) / len(files.train)
    costs = None if document is None or not document["seconds"] else UnitCosts.of(document, "trunkline")
    passes = seconds = 0.0
    teacher_depth = max(setting.backbone_layers - layers for layers in setting.layers)
    deeper = [
        trial.shape.frozen_depth
        for trial in trials
        if trial.shape.teacher is not None and trial.shape.frozen_depth > teacher_depth and trial.epochs_done
    ]
    cached = teacher_depth + max(deeper, default=0)
    for trial in trials:
        if not trial.epochs_done:
            continue
        layers, is_student = trial.shape.task_layers, trial.shape.teacher is not None
        scored = trial.epochs_done + (1 if trial.score is not None else 0)
        passes += trial.layer_passes + scored * dev_share * layers
        if costs is not None:
            epoch, evaluation = (
                (costs.student_epoch, costs.student_evaluation) if is_student else (costs.epoch, costs.evaluation)
            )
            seconds += trial.epochs_done * epoch.at(layers) * len(files.train)
            seconds += scored * evaluation.at(layers) * len(files.dev)
    passes += (1 + dev_share) * cached
    taught = {trial.shape.teacher for trial in trials} - {None}
    finished = {trial.version: trial.shape.task_layers for trial in trials}
    passes += sum(finished.get(teacher, 0) for teacher in taught)
    if costs is not None:
        assert document is not None  # noqa: S101
        filled = document["filling"] / document["setting"]["rows"] * len(files.train)
        seconds += filled * cached / teacher_depth
    return SearchWork(passes, None if costs is None else seconds)


class Extrapolated(NamedTuple):
    """What a search costs where one L wins."""

    clear: SearchWork
    """No other depth is in question."""
    contested: SearchWork
    """The other depth of the last rung gets its further runs too."""


def extrapolated_searches(setting: Setting, task: str) -> dict[int, Extrapolated]:
    """What the default search costs for each L that may win it."""
    spec = setting.files(task).spec()
    options = setting.options(spec)
    first_piece_only = HeadConfig(type=spec.type, outputs=spec.output_count).reading == "first"

    def work(peak: int, *, contested: bool) -> SearchWork:
        trials = peaked_search(
            options, setting.backbone_layers, peak=peak, contested=contested, first_piece_only=first_piece_only
        )
        return search_work(setting, task, trials)

    return {peak: Extrapolated(work(peak, contested=False), work(peak, contested=True)) for peak in setting.layers}
