"""One run of a search: its ledger, its workers, its trials, and MLflow, put together."""

import math
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from cli.application import Context
from cli.cache_cost import say_cache_cost
from cli.cores import own_cores
from cli.devices import chosen_device
from cli.processes import is_gone, own_name
from cli.progress import progress_bar
from cli.rendering import print_note, print_warning
from cli.search_captions import printable
from cli.search_figures import Spread
from cli.training import warn_of_weak_student
from pipelines.search.own_part import own_part
from registry.domain.manifests import HeadConfig
from registry.domain.searches import NewSearch, Search, SearchChoice, SearchOptions
from registry.errors import Conflict, NotAllowed, TrainingFailed
from registry.fault_points import reached
from registry.services import searches, trials

if TYPE_CHECKING:
    from cli.search_ledger import RegistryLedger
    from pipelines.execution.trial_file import Place
    from pipelines.search.problem import Problem, TrialWriter

_MOST_WORKERS = 8
_FEW_STEPS = 30
"""Of an optimiser. A judgement, not a measurement: RTE, the smallest task of the paper, has 78 in its first epoch."""


def run_search(
    context: Context, problem: "Problem", options: SearchOptions, *, device: str, workers: int | None
) -> Search:
    """Runs the search to its end, going on where an earlier run stopped, and registers what reaches the end.

    Raises:
        Conflict, NotAllowed: another process runs it, or the task was changed meanwhile.
        TrainingFailed, StorageError: as `DepthSearch.run`.
    """
    from cli.search_ledger import RegistryLedger
    from pipelines.search.problem import TrialWriter
    from pipelines.tracking import Tracking

    search = _begun(context, problem, options)
    tracking = Tracking(context.settings.mlflow_uri, context.settings.mlflow_artifact_location)
    ledger = RegistryLedger(context, search, tracking)
    if search.choice is not None:
        print_note(f"{search.task}#{search.number} was searched before; with other options it would be another search")
        _close_run(ledger, search)
        ledger.forget_ended()
        return search
    count = workers or _default_workers(device)
    writer = TrialWriter(problem, options, _place(context, device, count), ledger.files)
    try:
        with ledger.held():
            _open_run(context, ledger)
            _say_cost(context, problem, options, writer.most_depths)
            _warn_of_short_rung(problem, options)
            choice = _chosen(context, writer, ledger, count)
        with context.database.write() as session:
            search = searches.finish_search(session, ledger.search, choice, actor=context.actor, at=context.now())
    except TrainingFailed:
        _close_run(ledger, ledger.stand())
        raise
    except (NotAllowed, Conflict):
        _end_if_changed(context, ledger)
        raise
    finally:
        with context.database.write() as session:
            searches.leave_search(session, ledger.search)
    reached("search.finished")
    _close_run(ledger, search)
    ledger.forget_ended()
    shutil.rmtree(_exchange(context, search), ignore_errors=True)
    for layers in sorted(set(options.students) - choice.students.keys()):
        print_warning(_why_no_student(search, choice, layers))
    for student in choice.students.values():
        warn_of_weak_student(
            ledger.version(student),
            ledger.version(choice.teacher),
            metric=search.metric,
            epochs=options.student_recipe["epochs"],
        )
    return search


def _end_if_changed(context: Context, ledger: "RegistryLedger") -> None:
    """Of a task that is another one now, or retired, nobody will go on with the search."""
    with context.database.read() as session:
        goes_on = searches.can_go_on(session, ledger.search)
    if not goes_on:
        _close_run(ledger, ledger.stand())
        ledger.forget_ended()


def _why_no_student(search: Search, choice: SearchChoice, layers: int) -> str:
    """Of so many layers."""
    tried = [one for one in search.trials if one.shape.teacher == choice.teacher and one.shape.task_layers == layers]
    if not tried:
        return f"no student of {layers} layers fits above the teacher that was chosen, which has {choice.layers}"
    errors = sorted({printable(one.error) for one in tried if one.error})
    return f"no student of {layers} layers reached the end: {'; '.join(errors)}"


def in_precision_begun(context: Context, problem: "Problem", options: SearchOptions) -> SearchOptions:
    """These options, or with another precision those of a search that differs in nothing else, if there is one.

    Which precision is the fastest is timed anew at each start, and on another machine it is another: the same command
    would begin the same search once more.
    """
    from pipelines.training.recipes import Precision

    with context.database.read() as session:
        known = {search.key: search for search in searches.list_searches(session, problem.spec.task)}
    if problem.key(options) in known:
        return options
    for precision in get_args(Precision):
        other = options.in_precision(precision)
        if (search := known.get(problem.key(other))) is not None:
            print_note(
                f"this is {search.task}#{search.number}, which was begun in {precision}; with --precision "
                f"{options.recipe['precision']} it would be another search"
            )
            return other
    return options


def _begun(context: Context, problem: "Problem", options: SearchOptions) -> Search:
    """The search in the ledger, this process being the one that drives it."""
    from cli.search_ledger import LEASE
    from pipelines.search.plan import exhaustive_layer_passes

    new = NewSearch(
        task=problem.spec.task,
        spec_revision=problem.spec_revision,
        backbone=problem.backbone.name,
        key=problem.key(options),
        train_digest=problem.train.digest,
        dev_digest=problem.dev.digest,
        options=options,
        exhaustive_layer_passes=exhaustive_layer_passes(options, problem.backbone.layer_count),
    )
    now = context.now()
    with context.database.write() as session:
        search = searches.begin_search(
            session, new, runner=own_name(), until=now + LEASE, is_gone=is_gone, actor=context.actor, at=now
        )
        if search.choice is None:  # of a finished one nothing is run any more
            trials.forgive_broken_trials(session, search)
    reached("search.begun")
    return search


def _chosen(context: Context, writer: "TrialWriter", ledger: "RegistryLedger", workers: int) -> SearchChoice:
    from pipelines.execution.local_processes import LocalProcesses
    from pipelines.search.depth_search import DepthSearch

    # -P: a folder named cli in the working directory must not be taken for ours.
    work = (sys.executable, "-P", "-c", "import sys; from cli.main import main; sys.exit(main())", "trial", "work")
    # A folder of this process alone: another one may hold the same trial, if this one is taken for dead.
    folder = _exchange(context, ledger.search) / secrets.token_hex(4)
    with (
        LocalProcesses(workers, folder=folder, command=work, environ=context.environ) as executor,
        progress_bar() as report,
    ):
        return DepthSearch(
            options=writer.options,
            backbone_layers=writer.problem.backbone.layer_count,
            ledger=ledger,
            executor=executor,
            describe=writer,
            report=report,
            warn=print_warning,
            clock=time.monotonic,
        ).run()


def _exchange(context: Context, search: Search) -> Path:
    """Where the workers' specifications and results lie; of an attempt that broke, until the search is finished."""
    return context.settings.home / "searches" / f"{search.task}-{search.number}"


def _say_cost(context: Context, problem: "Problem", options: SearchOptions, depths: Sequence[int]) -> None:
    from pipelines.training.recipes import Recipe

    say_cache_cost(
        context,
        problem.backbone,
        train=problem.train,
        dev=problem.dev,
        head=HeadConfig.model_validate(dict(options.head)),
        precision=Recipe.model_validate(dict(options.recipe)).precision,
        depths=depths,
    )


def _warn_of_short_rung(problem: "Problem", options: SearchOptions) -> None:
    """Teachers that are told apart after a handful of steps are told apart by chance."""
    from pipelines.search.plan import next_step

    epochs = min(run.until_epoch for run in next_step(options, problem.backbone.layer_count, []).wanted)
    steps = epochs * math.ceil(len(problem.train.examples) / options.recipe["batch_size"])
    if epochs < options.recipe["epochs"] and steps < _FEW_STEPS:
        print_warning(
            f"the first rung compares configurations after {steps} steps, which is few to tell them apart by: "
            "more --epochs, or --strategy exhaustive, cost more and choose better"
        )


def _default_workers(device: str) -> int:
    """On a GPU one process; else one a core: two of one thread do more than one of two."""
    return 1 if chosen_device(device).type == "cuda" else min(own_cores(), _MOST_WORKERS)


def _place(context: Context, device: str, workers: int) -> "Place":
    from pipelines.execution.trial_file import Place

    settings = context.settings
    return Place(
        work=str(settings.home),
        artifact_root=settings.artifact_root,
        blob_cache=str(settings.blob_cache),
        blob_cache_bytes=settings.blob_cache_bytes,
        activation_cache_bytes=settings.activation_cache_bytes,
        device=str(chosen_device(device)),
        threads=max(1, own_cores() // workers),
    )


def _open_run(context: Context, ledger: "RegistryLedger") -> None:
    """Has MLflow make the run above all trials."""
    search = ledger.search
    options = search.options.model_dump(mode="json", exclude={"recipe", "student_recipe", "head"})
    run = search.mlflow_run or ledger.tracking.open_search(
        search.task,
        f"{search.task}#{search.number}",
        key=search.key,
        options={name: str(value) for name, value in options.items()},
    )
    if run is not None:
        with context.database.write() as session:
            searches.name_mlflow_run(session, search, run)
        ledger.search = search.model_copy(update={"mlflow_run": run})
    reached("search.run-opened")


def _close_run(ledger: "RegistryLedger", search: Search) -> None:
    """Ends the run above all trials, as often as it is asked to; a search that chose nothing has failed."""
    run, choice = ledger.search.mlflow_run, search.choice
    if run is None:
        return
    spent = {"layer_passes": sum(trial.layer_passes for trial in own_part(search).trials)}
    if choice is None:
        ledger.tracking.close_search(run, metrics=spent, tags={}, failed=True)
        return
    scores = {trial.version: trial.score for trial in search.trials if trial.score is not None}
    tags = {
        "trunkline.teacher": f"{search.task}/{choice.teacher}",
        "trunkline.chosen_by": choice.statistic,
        "trunkline.statistic": "one run",
        **{f"trunkline.student_of_{layers}": f"{search.task}/{one}" for layers, one in choice.students.items()},
    }
    figures = {
        "layers": float(choice.layers),
        f"teacher_dev_{search.metric}": scores[choice.teacher],
        **{f"chosen_dev_{search.metric}_{name}": value for name, value in _spread(search, choice).items()},
        **spent,
    }
    ledger.tracking.close_search(run, metrics=figures, tags=tags)


def _spread(search: Search, choice: SearchChoice) -> dict[str, float]:
    """Of the finished runs of the chosen teacher's configuration, which differ in their seed."""
    teacher = next(trial.shape for trial in search.trials if trial.version == choice.teacher)
    scores = [
        trial.score
        for trial in search.trials
        if trial.score is not None and trial.shape.model_copy(update={"seed": teacher.seed}) == teacher
    ]
    spread = Spread(tuple(sorted(scores)))
    found = {"mean": spread.mean, "max": spread.highest, "runs": float(spread.count)}
    return found if spread.deviation is None else found | {"deviation": spread.deviation}
