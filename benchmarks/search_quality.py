"""What two searches choose on one half of the dev data, scored on the other: replayed on a pool of trials."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark_tasks import TaskFiles, half_rows
from cost_estimates import search_work
from cost_setting import Setting
from printed_tables import say
from ratio_intervals import Metric, Pair, ratio_of_means
from search_replay import Replayed, replay, scored_epochs
from sklearn.metrics import matthews_corrcoef
from trial_pool import PooledTrial, Taught, TrialPool

from pipelines.data.dataset import load_dataset
from pipelines.search.rungs import student_rungs, teacher_rungs
from pipelines.search.runs import Run
from pipelines.training.metrics import score
from registry.domain.searches import SearchOptions, TrialShape
from registry.domain.task_specs import TaskSpec


@dataclass(frozen=True)
class Repetition:
    """One choice of the half of dev that selects, and of the seeds that there are."""

    number: int
    selecting: Sequence[int]
    reporting: Sequence[int]
    seeds: Sequence[int]
    """The pool's seed that stands for seed 0, 1, … of the search."""


def repetitions(setting: Setting, files: TaskFiles) -> Iterator[Repetition]:
    """Half a of split 0 with seeds 0, 1, … first: what `run_whole` runs. Then other splits, other seeds."""
    for number in range(setting.repetitions):
        seeds = list(range(setting.pool_seeds))
        if number:
            random.Random(number).shuffle(seeds)  # noqa: S311 - an order, not a secret
        yield Repetition(
            number,
            half_rows(files.dev, "a", number),
            half_rows(files.dev, "b", number),
            seeds[: setting.seeds],
        )


@dataclass
class Selection:
    """One search in one repetition, replayed on a pool."""

    setting: Setting
    pool: TrialPool
    gold: Sequence[Any]
    repetition: Repetition

    def __post_init__(self) -> None:
        self.versions: dict[tuple[PooledTrial, int], int] = {}

    def metric(self, gold: Sequence[Any], predicted: Sequence[Any]) -> float:
        return score(self.pool.spec, gold, predicted)[self.pool.spec.metric]

    def pooled(self, shape: TrialShape) -> PooledTrial:
        taught = None
        if shape.teacher is not None:
            teacher, epoch = self.version(shape.teacher)
            taught = Taught(teacher.name, epoch)
        return PooledTrial(
            shape.frozen_depth,
            shape.task_layers,
            shape.learning_rate,
            self.repetition.seeds[shape.seed],
            taught,
        )

    def version(self, number: int) -> tuple[PooledTrial, int]:
        return next(one for one, version in self.versions.items() if version == number)

    def look(self, run: Run) -> dict[int, float] | None:
        pooled = self.pooled(run.shape)
        if not self.pool.has_reached(pooled, run.until_epoch):
            return None
        kept = self.pool.kept(pooled)
        assert kept is not None  # noqa: S101 - it has reached an epoch
        rows = self.repetition.selecting
        return {
            epoch: self.metric([self.gold[row] for row in rows], [answers[row] for row in rows])
            for epoch, answers in kept.answers.items()
            if epoch <= run.until_epoch
        }

    def replay(self, options: SearchOptions) -> Replayed:
        return replay(
            options,
            self.setting.backbone_layers,
            look=self.look,
            name=lambda shape, epoch: self.versions.setdefault((self.pooled(shape), epoch), len(self.versions) + 1),
            first_piece_only=self.pool.head.reading == "first",
        )

    def default(self) -> Replayed:
        return self.replay(self.setting.options(self.pool.spec, strategy="halving", rule="parsimonious"))

    def exhaustive(self) -> Replayed:
        """As the paper: every run to the end, the maximum, students where the teacher leaves."""
        how: dict[str, Any] = {"strategy": "exhaustive", "rule": "best"}
        teachers = self.replay(self.setting.options(self.pool.spec, students=(), **how))
        if teachers.choice is None:
            return teachers
        depth = self.setting.backbone_layers - teachers.choice.layers
        return self.replay(self.setting.options(self.pool.spec, student_depths=(depth,), **how))

    def predictions(self, number: int) -> list[Any]:
        """Of a version, on the rows that report."""
        pooled, epoch = self.version(number)
        kept = self.pool.kept(pooled)
        assert kept is not None  # noqa: S101 - it was chosen
        return [kept.answers[epoch][row] for row in self.repetition.reporting]


def quality_pool(setting: Setting, task: str) -> TrialPool:
    rungs = [
        rung.until_epoch for rung in teacher_rungs(len(setting.layers), seeds=setting.seeds, epochs=setting.epochs)
    ]
    student = [rung.until_epoch for rung in student_rungs(3, seeds=setting.seeds, epochs=setting.student_epochs)]
    N = setting.backbone_layers  # noqa: N806
    return TrialPool(
        folder=setting.workshop.folder,
        spec=setting.files(task).spec(),
        recipe=setting.recipe,
        student_recipe=setting.student_recipe,
        teacher_depths=tuple(sorted(N - layers for layers in setting.layers)),
        epochs=tuple(scored_epochs(setting.epochs, setting.recipe.evaluate_from, rungs)),
        student_epochs=tuple(scored_epochs(setting.student_epochs, setting.student_recipe.evaluate_from, student)),
    )


def run_quality(setting: Setting, task: str) -> None:
    """Trains what the repetitions' replays ask for until all of them have chosen; writes `quality-TASK`."""
    files, pool = setting.files(task), quality_pool(setting, task)
    gold = [example.target for example in load_dataset(pool.spec, "dev").examples]
    selections = [Selection(setting, pool, gold, one) for one in repetitions(setting, files)]
    while True:
        wanted, found = [], []
        for selection in selections:
            both = selection.default(), selection.exhaustive()
            wanted += [(selection.pooled(run.shape), _to_the_end(setting, run)) for one in both for run in one.missing]
            found.append(both)
        if not wanted:
            break
        say(f"{task}: {len(set(wanted))} trials are to be run")
        pool.train(wanted, processes=setting.cores, say=say)
    setting.keep(f"quality-{task}", _quality(setting, task, selections, found))


def _to_the_end(setting: Setting, run: Run) -> int:
    """Teachers are run to the end at once: the exhaustive protocol asks for it anyway."""
    return run.until_epoch if run.shape.teacher is not None else setting.epochs


def single_metric(spec: TaskSpec) -> Metric:
    """A task's metric of arrays of targets: as `pipelines.training.metrics`, without the other metrics' time."""
    if spec.metric == "accuracy":
        return lambda gold, predicted: float((gold == predicted).mean())
    if spec.metric == "matthews":
        return lambda gold, predicted: float(matthews_corrcoef(gold, predicted))
    return lambda gold, predicted: score(spec, gold.tolist(), predicted.tolist())[spec.metric]


def _quality(
    setting: Setting, task: str, selections: Sequence[Selection], found: Sequence[tuple[Replayed, Replayed]]
) -> dict[str, Any]:
    """Per repetition what was chosen and how it scores on the other half; and the ratios over all."""
    rows: list[dict[str, Any]] = []
    pairs: dict[str, dict[int, dict[str, list[Any]]]] = {}
    """Chosen module -> repetition -> search -> its predictions."""
    metric = selections[0].metric
    gold = selections[0].gold
    for selection, both in zip(selections, found, strict=True):
        sides = {}
        for side, replayed in zip(("default", "exhaustive"), both, strict=True):
            choice = replayed.choice
            assert choice is not None  # noqa: S101 - nothing is missing
            chosen = {"teacher": choice.teacher, **{f"l={layers}": one for layers, one in choice.students.items()}}
            work = search_work(setting, task, replayed.trials)
            truth = [gold[row] for row in selection.repetition.reporting]
            sides[side] = {
                "L": choice.layers,
                "modules": {name: selection.version(number)[0].name for name, number in chosen.items()},
                "scores": {name: metric(truth, selection.predictions(number)) for name, number in chosen.items()},
                "passes": work.passes,
            }
            for name, number in chosen.items():
                pairs.setdefault(name, {}).setdefault(selection.repetition.number, {})[side] = selection.predictions(
                    number
                )
        rows.append({"repetition": selection.repetition.number, "seeds": list(selection.repetition.seeds), **sides})
    ratios = {}
    for name, by_repetition in pairs.items():
        matched = [
            Pair(selections[number].repetition.reporting, both["default"], both["exhaustive"])
            for number, both in by_repetition.items()
            if len(both) == 2
        ]
        if matched:
            interval = ratio_of_means(matched, gold, single_metric(selections[0].pool.spec))
            ratios[name] = {"of": len(matched), "interval": interval}
    return {"repetitions": rows, "ratios": ratios}
