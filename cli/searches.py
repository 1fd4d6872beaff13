"""`search`: find how many layers a task needs, train them, distil them; and look at what a search found."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from typer.core import TyperGroup

from cli.application import AsJson, Context, example
from cli.devices import DeviceOption, chosen_device
from cli.number_lists import positive_numbers, whole_numbers
from cli.processes import is_gone, own_name
from cli.progress import progress_bar
from cli.rendering import moment, number_column, print_json, print_line, print_note, print_table, print_warning
from cli.search_drawing import draw_search
from cli.search_svg import search_svg
from cli.training import backbone_of, refuse_retired
from registry.artifacts.atomic_file import write_atomically
from registry.domain.manifests import HeadConfig
from registry.domain.references import check_name
from registry.domain.searches import NewSearch, Search, SearchOptions
from registry.errors import UsageError
from registry.fault_points import reached
from registry.services import searches, tasks

if TYPE_CHECKING:
    from cli.search_ledger import RegistryLedger
    from pipelines.execution.trial_file import Place
    from pipelines.search.problem import Problem

_STUDENT_EPOCHS = 10
"""As in CentraBERT, the paper's own code (distill.py): a student's epoch costs a fraction of its teacher's."""

_MOST_WORKERS = 8


class _SearchGroup(TyperGroup):
    """`search TASK` runs a search: what is no command's name is a task's."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args and args[0] in self.commands else ["run", *args])


app = typer.Typer(
    cls=_SearchGroup,
    no_args_is_help=True,
    help="Find how many layers a task needs: `search TASK` is `search run TASK`.",
)


@app.command(
    epilog=example(
        "trunkline search rte",
        "trunkline search rte --layers 4-10 --seeds 5 --students 1-3",
        "trunkline search rte --lr 1e-4,2e-4 --student-depths 6-11 --workers 2",
    )
)
def run(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(help="A registered task.")],
    layers: Annotated[
        str | None, typer.Option(help="L of the teachers. [default: the middle, 4-10 of 12 layers]")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="The most runs that a configuration gets.")] = 5,
    learning_rates: Annotated[
        str | None, typer.Option("--lr", help="Learning rates. Else by the encoder's width.")
    ] = None,
    students: Annotated[str, typer.Option(help="l of the students; none: teachers only.")] = "1-3",
    student_depths: Annotated[
        str | None,
        typer.Option(help="k' of the students. [default: the teacher's k, the highest that fits, the middle]"),
    ] = None,
    initialisations: Annotated[
        str, typer.Option("--init", help="Whose layers students begin as: teacher, backbone, or both.")
    ] = "teacher",
    strategy: Annotated[
        Literal["halving", "exhaustive"], typer.Option(help="halving: few runs to the end; exhaustive: all of them.")
    ] = "halving",
    rule: Annotated[
        Literal["parsimonious", "best"],
        typer.Option(
            help="parsimonious: the smallest L within one standard error of the best mean; best: the maximum."
        ),
    ] = "parsimonious",
    epochs: Annotated[int | None, typer.Option(min=1, help="Of a teacher. [default: 5]")] = None,
    student_epochs: Annotated[int, typer.Option(min=1, help="Of a student.")] = _STUDENT_EPOCHS,
    recipe: Annotated[
        Literal["default", "paper"],
        typer.Option("--recipe", help="paper: the paper's learning rate, 2e-5, at any width."),
    ] = "default",
    temperature: Annotated[float | None, typer.Option(help="Softens both outputs. [default: 2]")] = None,
    soft_weight: Annotated[float | None, typer.Option(help="Weight of the teacher's outputs. [default: 0.7]")] = None,
    hidden_weight: Annotated[float | None, typer.Option(help="Weight of the teacher's features. [default: 0]")] = None,
    pooling: Annotated[Literal["first", "mean"], typer.Option(help="What a text-level head reads.")] = "first",
    gather: Annotated[Literal["last", "mix"], typer.Option(help="mix: a learnt mix of all layers.")] = "last",
    crf: Annotated[bool, typer.Option("--crf", help="Learn transitions between tags (bio).")] = False,
    backbone: Annotated[str | None, typer.Option(help="A pinned backbone; may be left out when there is one.")] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option("--precision", help="What training multiplies in.")
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes. [default: one a core, 8 at most; with a GPU one]")
    ] = None,
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Search how many layers a task needs, and distil the best teacher into students at any depth.

    Configurations are trained a little, and only the promising ones to the end; promoted trials go on where they
    stopped. Everything that reaches the end is registered. A search that was interrupted goes on where it was: run the
    same command again.
    """
    context: Context = ctx.obj
    check_name("task", task)
    problem = _read_problem(context, task, backbone)
    options = _options(
        problem,
        layers=layers,
        seeds=seeds,
        learning_rates=learning_rates,
        students=students,
        student_depths=student_depths,
        initialisations=initialisations,
        strategy=strategy,
        rule=rule,
        recipe=recipe,
        epochs=epochs,
        student_epochs=student_epochs,
        precision=precision,
        device=device,
        distillation={"temperature": temperature, "soft_weight": soft_weight, "hidden_weight": hidden_weight},
        head={"pooling": pooling, "gather": gather, "crf": crf},
    )
    found = _search(context, problem, options, device=device, workers=workers)
    _show(found, as_json=as_json)


@app.command(epilog=example("trunkline search show rte", "trunkline search show rte --svg rte.svg"))
def show(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(help="A registered task.")],
    number: Annotated[int | None, typer.Option(min=1, help="Which search of the task. [default: the newest]")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw it into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a search found and what it cost, in figures; also of one that still runs."""
    context: Context = ctx.obj
    with context.database.read() as session:
        found = searches.get_search(session, task, number)
    if svg is not None:
        write_atomically(context.cwd / svg, search_svg(found).encode())
        print_note(f"drawn into {svg}")
    _show(found, as_json=as_json)


@app.command("list", epilog=example("trunkline search list", "trunkline search list rte"))
def list_(
    ctx: typer.Context,
    task: Annotated[str | None, typer.Argument(help="Only the searches of this task.")] = None,
    as_json: AsJson = False,
) -> None:
    """List searches and what they chose."""
    context: Context = ctx.obj
    with context.database.read() as session:
        found = searches.list_searches(session, task)
    if as_json:
        print_json(found)
    elif not found:
        print_line("no searches yet: `trunkline search TASK` runs one")
    else:
        print_table(
            ["search", "state", number_column("L"), "teacher", "students", "begun (UTC)"],
            [
                (
                    f"{one.task}#{one.number}",
                    one.state,
                    str(one.choice.layers) if one.choice else "",
                    f"{one.task}/{one.choice.teacher}" if one.choice else "",
                    ", ".join(f"l={layers}: /{version}" for layers, version in one.choice.students.items())
                    if one.choice
                    else "",
                    moment(one.created_at),
                )
                for one in found
            ],
        )


def _read_problem(context: Context, task: str, backbone: str | None) -> "Problem":
    from pipelines.data.dataset import load_dataset
    from pipelines.search.problem import Problem

    with context.database.read() as session:
        found = tasks.get_task(session, task)
        trunk = backbone_of(session, backbone)
    refuse_retired(task, found.state)
    return Problem(
        spec=found.spec,
        spec_revision=found.spec_revision,
        backbone=trunk,
        train=load_dataset(found.spec, "train"),
        dev=load_dataset(found.spec, "dev"),
    )


def _options(
    problem: "Problem",
    *,
    layers: str | None,
    seeds: int,
    learning_rates: str | None,
    students: str,
    student_depths: str | None,
    initialisations: str,
    strategy: Literal["halving", "exhaustive"],
    rule: Literal["parsimonious", "best"],
    recipe: Literal["default", "paper"],
    epochs: int | None,
    student_epochs: int,
    precision: Literal["auto", "fp32", "bf16"],
    device: str,
    distillation: Mapping[str, float | None],
    head: Mapping[str, Any],
) -> SearchOptions:
    """What the command line asks for, every wrong number refused at once."""
    from pipelines.training.recipes import Distillation, best_precision, checked, make_recipe

    depth = problem.backbone.layer_count
    problems = []
    wanted = whole_numbers(layers, "--layers") if layers else _default_layers(depth)
    problems += [f"--layers {one}: must be 1 to {depth}" for one in wanted if not 1 <= one <= depth]
    taught = () if students == "none" else whole_numbers(students, "--students")
    problems += [f"--students {one}: must be 1 to {depth}" for one in taught if not 1 <= one <= depth]
    depths = whole_numbers(student_depths, "--student-depths") if student_depths else None
    problems += [f"--student-depths {one}: must be 0 to {depth - 1}" for one in depths or () if one >= depth]
    begins = tuple(dict.fromkeys(part.strip() for part in initialisations.split(",")))
    problems += [f"--init {one}: must be teacher or backbone" for one in begins if one not in ("teacher", "backbone")]
    if problems:
        raise UsageError(
            f"search of {problem.spec.task} on {problem.backbone.name} of {depth} layers: {'; '.join(problems)}"
        )
    multiplied = best_precision(chosen_device(device)) if precision == "auto" else precision
    teachers = make_recipe(recipe, hidden_size=problem.backbone.hidden_size, precision=multiplied, epochs=epochs)
    rates = positive_numbers(learning_rates, "--lr") if learning_rates else (teachers.learning_rate,)
    chosen = {name: value for name, value in distillation.items() if value is not None}
    learners = teachers.model_copy(
        update={
            "learning_rate": rates[-1],
            "epochs": student_epochs,
            "evaluate_from": -(-3 * student_epochs // 5),
            "distillation": checked(Distillation, chosen),
        }
    )
    spec = problem.spec
    return SearchOptions(
        layers=wanted,
        seeds=seeds,
        learning_rates=rates,
        students=taught,
        student_depths=depths,
        initialisations=cast(Any, begins),
        strategy=strategy,
        rule=rule,
        recipe=teachers.model_dump(mode="json"),
        student_recipe=learners.model_dump(mode="json"),
        head=checked(HeadConfig, {"type": spec.type, "outputs": spec.output_count, **head}).model_dump(mode="json"),
    )


def _default_layers(depth: int) -> tuple[int, ...]:
    """From a third to five sixths of the backbone: the paper's 4 to 10 of 12 (appendix B)."""
    return tuple(range(max(1, depth // 3), max(1, depth * 5 // 6) + 1))


def _search(
    context: Context, problem: "Problem", options: SearchOptions, *, device: str, workers: int | None
) -> Search:
    from cli.search_ledger import LEASE, RegistryLedger
    from pipelines.execution.local_processes import LocalProcesses
    from pipelines.search.depth_search import DepthSearch
    from pipelines.search.plan import exhaustive_layer_passes
    from pipelines.search.problem import TrialWriter
    from pipelines.tracking import Tracking

    spec, trunk = problem.spec, problem.backbone
    new = NewSearch(
        task=spec.task,
        spec_revision=problem.spec_revision,
        backbone=trunk.name,
        key=problem.key(options),
        train_digest=problem.train.digest,
        dev_digest=problem.dev.digest,
        options=options,
        exhaustive_layer_passes=exhaustive_layer_passes(options, trunk.layer_count),
    )
    runner, now = own_name(), context.now()
    with context.database.write() as session:
        search = searches.begin_search(
            session, new, runner=runner, until=now + LEASE, is_gone=is_gone, actor=context.actor, at=now
        )
    reached("search.begun")
    if search.choice is not None:
        print_note(f"{spec.task}#{search.number} was searched before; with other options it would be another search")
        return search
    place = _place(context, device, workers or _default_workers(device))
    ledger = RegistryLedger(
        context, search, Tracking(context.settings.mlflow_uri, context.settings.mlflow_artifact_location)
    )
    describe = TrialWriter(problem, options, place, ledger.files)
    try:
        _open_run(context, ledger)
        _say_cost(context, problem, options, describe.teacher_depths)
        with (
            LocalProcesses(
                workers or _default_workers(device),
                folder=Path(place.work) / "searches",
                # -P: a folder named cli in the working directory must not be taken for ours.
                command=(
                    sys.executable,
                    "-P",
                    "-c",
                    "import sys; from cli.main import main; sys.exit(main())",
                    "trial",
                    "work",
                ),
                environ=context.environ,
            ) as executor,
            progress_bar() as report,
        ):
            choice = DepthSearch(
                options=options,
                backbone_layers=trunk.layer_count,
                ledger=ledger,
                executor=executor,
                describe=describe,
                report=report,
                warn=print_warning,
                clock=time.monotonic,
            ).run()
    finally:
        with context.database.write() as session:
            searches.leave_search(session, ledger.search)
    with context.database.write() as session:
        search = searches.finish_search(session, ledger.search, choice, actor=context.actor, at=context.now())
    reached("search.finished")
    _close_run(ledger, search)
    return search


def _say_cost(context: Context, problem: "Problem", options: SearchOptions, depths: Sequence[int]) -> None:
    """What the frozen activations will take on the disk, before any of it is written."""
    from modeling.backbone import load_text_encoder
    from pipelines.training.activation_cache import EncodedRows, disk_cost
    from pipelines.training.cache_room import CacheRoom
    from pipelines.training.recipes import Recipe

    encoder, hidden_size = load_text_encoder(problem.backbone, context.store), problem.backbone.hidden_size
    precision = Recipe.model_validate(dict(options.recipe)).precision
    cost = disk_cost(
        EncodedRows.of(problem.train, encoder), depths=depths, hidden_size=hidden_size, precision=precision
    ) + disk_cost(EncodedRows.of(problem.dev, encoder), depths=depths, hidden_size=hidden_size, precision="fp32")
    outlook = CacheRoom(context.settings.home / "cache", context.settings.activation_cache_bytes).outlook()
    print_note(f"frozen activations of {len(depths)} depths: up to {cost / 1e9:,.2g} GB on the disk ({outlook})")
    if cost > outlook.room:
        print_warning("not all of them fit: those that do not are computed again in every epoch")


def _default_workers(device: str) -> int:
    """On a GPU one process; else one a core: two of one thread do more than one of two."""
    return 1 if chosen_device(device).type == "cuda" else min(_cores(), _MOST_WORKERS)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
        threads=max(1, _cores() // workers),
    )


def _open_run(context: Context, ledger: "RegistryLedger") -> None:
    """Has MLflow make the run above all trials."""
    search = ledger.search
    options = search.options.model_dump(mode="json", exclude={"recipe", "student_recipe", "head"})
    run = search.mlflow_run or ledger.tracking.open_search(
        search.task, f"{search.task}#{search.number}", {name: str(value) for name, value in options.items()}
    )
    if run is not None:
        with context.database.write() as session:
            searches.name_mlflow_run(session, search, run)
        ledger.search = search.model_copy(update={"mlflow_run": run})
    reached("search.run-opened")


def _close_run(ledger: "RegistryLedger", search: Search) -> None:
    choice, run = search.choice, ledger.search.mlflow_run
    if run is None or choice is None:
        return
    spent = sum(trial.layer_passes for trial in search.trials)
    scores = {trial.version: trial.score for trial in search.trials if trial.score is not None}
    metrics = {
        "layers": float(choice.layers),
        "layer_passes": spent,
        f"best_dev_{search.metric}": scores[choice.teacher],
    }
    students = {f"trunkline.student_of_{layers}": f"{search.task}/{one}" for layers, one in choice.students.items()}
    tags = {"trunkline.teacher": f"{search.task}/{choice.teacher}", "trunkline.statistic": choice.statistic, **students}
    ledger.tracking.close_search(run, metrics=metrics, tags=tags)


def _show(search: Search, *, as_json: bool) -> None:
    if as_json:
        print_json(search)
    else:
        draw_search(search)
