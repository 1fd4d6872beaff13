"""`search`: find how many layers a task needs, train them, distil them; and look at what a search found."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from cli.application import AsJson, Context, example
from cli.devices import DeviceOption
from cli.processes import is_gone
from cli.rendering import moment, number_column, print_json, print_line, print_note, print_table, print_warning
from cli.search_drawing import draw_search
from cli.search_options import STUDENT_EPOCHS, search_options
from cli.search_run import in_precision_begun, run_search
from cli.search_svg import search_svg
from cli.training import WEAK_STUDENT, backbone_of, chosen_distillation, chosen_head, refuse_retired
from pipelines.search.own_part import own_part
from registry.domain.references import check_name
from registry.domain.searches import LedgerTrial, Search, SearchChoice, SearchOptions
from registry.errors import UsageError
from registry.services import searches, tasks
from registry.services.versions import versions_with_alias

if TYPE_CHECKING:
    from pipelines.search.problem import Problem


class _SearchGroup(TyperGroup):
    """`search TASK` runs a search: what is neither a command's name nor asks for help is meant for `run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_option = bool(args) and args[0].startswith("-") and args[0] not in ctx.help_option_names
        return super().parse_args(ctx, ["run", *args] if is_option else args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args and args[0] in self.commands else ["run", *args])


app = typer.Typer(
    cls=_SearchGroup,
    no_args_is_help=True,
    help="Find how many layers a task needs: `search TASK` is `search run TASK`.",
)


@app.command(
    epilog=example(
        "trunkline search run rte",
        "trunkline search run rte --layers 4-10 --seeds 5 --students 1-3",
        "trunkline search run rte --lr 1e-4,2e-4 --student-depths 6-11 --workers 2",
    )
)
def run(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(help="A registered task.")],
    layers: Annotated[
        str | None, typer.Option(help="L of the teachers. [default: the middle, 4-10 of 12 layers]")
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="Runs of a configuration; halving gives two fifths of them.")
    ] = 5,
    learning_rates: Annotated[
        str | None, typer.Option("--lr", help="Learning rates. Else by the encoder's width.")
    ] = None,
    students: Annotated[
        str | None,
        typer.Option(help="l of the students; none: teachers only. [default: 1-3, as far as a teacher has so many]"),
    ] = None,
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
    student_epochs: Annotated[int, typer.Option(min=1, help="Of a student.")] = STUDENT_EPOCHS,
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
    options = search_options(
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
        distillation=chosen_distillation(temperature=temperature, soft_weight=soft_weight, hidden_weight=hidden_weight),
        head=chosen_head(problem.spec, pooling=pooling, gather=gather, crf=crf),
    )
    _say_unused_depths(options, problem.backbone.layer_count)
    if precision == "auto":
        options = in_precision_begun(context, problem, options)
    found = run_search(context, problem, options, device=device, workers=workers)
    _show(own_part(found), as_json=as_json)
    if found.choice is not None:
        _say_what_promotes(context, found, found.choice)


def _say_unused_depths(options: SearchOptions, backbone_layers: int) -> None:
    """Of `--student-depths` those that no student can leave after, whichever teacher is chosen."""
    if not options.students:
        return
    lowest, highest = backbone_layers - max(options.layers), backbone_layers - min(options.students)
    if unused := [depth for depth in options.student_depths or () if not lowest <= depth <= highest]:
        print_note(
            f"--student-depths {', '.join(map(str, unused))}: left out, for students leave after layer {lowest} to "
            f"{highest} here"
        )


def _say_what_promotes(context: Context, search: Search, choice: SearchChoice) -> None:
    """Names the version that is worth promoting, beside the champion that it would replace."""
    worth = worth_promoting(search.trials, choice, search.metric)
    if worth is None:
        print_warning(f"the teacher's {search.metric} is no better than answers at random: nothing is worth promoting")
        return
    number, why = worth
    with context.database.read() as session:
        champion = next((one for one in versions_with_alias(session, "champion") if one.task == search.task), None)
    if champion is not None and champion.number == number:
        return
    note = f"a search promotes nothing: `trunkline task promote {search.task}/{number} --alias champion` does ({why})"
    if champion is not None and champion.dev_digest == search.dev_digest:
        (chosen,) = (trial.score for trial in search.trials if trial.version == number)
        note += (
            f"; it has {search.metric} {chosen:.4f} (one run), the champion {champion.reference} has "
            f"{champion.metrics[search.metric]:.4f} ({champion.statistic})"
        )
    elif champion is not None:
        note += f"; the champion {champion.reference} was scored on other dev data"
    print_note(note)


def worth_promoting(trials: Sequence[LedgerTrial], choice: SearchChoice, metric: str) -> tuple[int, str] | None:
    """The version of the smallest student that is not far below its teacher, else the teacher's; and which that is.
    None where the teacher itself has learnt nothing."""
    scores = {trial.version: trial.score for trial in trials if trial.score is not None}
    if scores[choice.teacher] <= 0:
        return None
    least = WEAK_STUDENT * scores[choice.teacher]
    for _, version in sorted(choice.students.items()):
        if scores[version] >= least:
            return version, f"the smallest student that keeps {WEAK_STUDENT:.0%} of its teacher's {metric}"
    return choice.teacher, "the teacher"


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
        found = own_part(searches.get_search(session, task, number).driven(_is_driving(context)))
    if svg is not None:
        _draw_into(context.cwd / svg, found)
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
        found = [one.driven(_is_driving(context)) for one in searches.list_searches(session, task)]
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
                    one.standing,
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


def _is_driving(context: Context) -> Callable[[str, datetime], bool]:
    now = context.now()
    return lambda process, until: until > now and not is_gone(process)


def _draw_into(path: Path, search: Search) -> None:
    try:
        path.write_text(search_svg(search), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--svg {path}: cannot be written: {error.strerror}") from None


def _show(search: Search, *, as_json: bool) -> None:
    if as_json:
        print_json(search)
    else:
        draw_search(search)
