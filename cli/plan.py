"""`plan`: which module of each task a release should take, under a budget of layers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field, ValidationError, model_validator

from cli.application import AsJson, Context, example
from cli.rendering import number_column, print_fields, print_json, print_line, print_table
from registry.domain.plain_data import Plain
from registry.domain.references import Name, VersionReference, parse_reference
from registry.domain.task_specs import validation_problems
from registry.errors import InvalidInput, UsageError

if TYPE_CHECKING:
    from pipelines.planning import Candidate, Candidates, Plan

app = typer.Typer()

_MOST_LAYERS = 1000


class _Candidate(Plain):
    frozen_depth: int = Field(ge=0, le=_MOST_LAYERS)
    task_layers: int = Field(ge=1, le=_MOST_LAYERS)
    score: float = Field(allow_inf_nan=False, ge=-1e6, le=1e6)
    version: int | None = Field(default=None, ge=1)


class _CandidateFile(Plain):
    backbone_layers: int = Field(ge=1, le=_MOST_LAYERS)
    tasks: Mapping[Name, tuple[_Candidate, ...]]

    @model_validator(mode="after")
    def _fits(self) -> "_CandidateFile":
        problems = ["tasks: names none"] if not self.tasks else []
        for task, candidates in self.tasks.items():
            problems += [f"tasks.{task}: has no candidate"] if not candidates else []
            problems += [
                f"tasks.{task}.{number}: {one.frozen_depth} frozen and {one.task_layers} task layers are more than the "
                f"backbone's {self.backbone_layers}"
                for number, one in enumerate(candidates)
                if one.frozen_depth + one.task_layers > self.backbone_layers
            ]
        if problems:
            raise ValueError("\n".join(problems))
        return self


@app.command(
    epilog=example(
        "trunkline plan --candidates candidates.json --min-gain 2",
        "trunkline plan --candidates candidates.json --budget 20 --floor rte=66 --weights cola=2",
        "trunkline plan --candidates candidates.json --frontier --json",
    )
)
def plan(
    ctx: typer.Context,
    candidates: Annotated[
        Path,
        typer.Option(metavar="FILE", help="JSON; docs/planning.md has an example."),
    ],
    min_gain: Annotated[
        float | None,
        typer.Option(min=0, help="The paper's rule: add layers while each gains so many points."),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(min=1, help="The best average with so many layers at most, exactly.")
    ] = None,
    frontier: Annotated[bool, typer.Option("--frontier", help="The best average at every layer count.")] = False,
    weights: Annotated[
        str | None, typer.Option(metavar="TASK=N,...", help="How much tasks count. [default: 1 each]")
    ] = None,
    floors: Annotated[
        str | None, typer.Option("--floor", metavar="TASK=SCORE,...", help="The least scores that tasks may have.")
    ] = None,
    pins: Annotated[
        str | None, typer.Option("--pin", metavar="TASK/N,...", help="Versions that tasks must have.")
    ] = None,
    excluded: Annotated[str | None, typer.Option("--exclude", metavar="TASK,...", help="Tasks to leave out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Choose one module of each task for a release.

    A release costs its layer count: the deepest frozen depth in use and all task layers together. Needs no registry.
    """
    context: Context = ctx.obj
    if [min_gain is not None, budget is not None, frontier].count(True) != 1:
        raise UsageError("give one of --min-gain, --budget and --frontier")
    if min_gain is not None and not min_gain < float("inf"):
        raise UsageError("--min-gain: is no number of points")
    if min_gain is not None and weights is not None:
        raise UsageError("--weights: the rule of --min-gain looks at each task alone; weights go with --budget")

    from pipelines import planning

    tasks = planning.restricted(
        _read_candidates(context.cwd / candidates),
        floors=_numbers(floors, "--floor"),
        pins=_versions(pins),
        excluded=[task.strip() for task in excluded.split(",")] if excluded else (),
    )
    weighing = _numbers(weights, "--weights")
    if unknown := sorted(weighing.keys() - tasks.keys()):
        raise UsageError(f"--weights: there is no task {', '.join(unknown)}")
    if any(weight <= 0 for weight in weighing.values()):
        raise UsageError("--weights: must be above 0; --exclude leaves a task out")
    if frontier:
        _show_frontier(planning.frontier(tasks, weights=weighing), as_json=as_json)
    elif budget is not None:
        _show(planning.plan_by_budget(tasks, budget=budget, weights=weighing), as_json=as_json)
    else:
        assert min_gain is not None  # noqa: S101 - one of the three was given
        _show(planning.plan_by_gain(tasks, least_gain=min_gain), as_json=as_json)


def _read_candidates(path: Path) -> "Candidates":
    from pipelines.planning import Candidate

    try:
        read = _CandidateFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(str(path), [f"cannot be read: {error.strerror}"]) from None
    except ValidationError as error:
        raise InvalidInput(str(path), validation_problems(error)) from None
    return {
        task: [Candidate(one.frozen_depth, one.task_layers, one.score, one.version) for one in of_task]
        for task, of_task in read.tasks.items()
    }


def _numbers(text: str | None, option: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in text.split(",") if text else ():
        name, _, number = part.partition("=")
        task = name.strip()
        if task in found:
            raise UsageError(f"{option}: names {task} twice")
        try:
            found[task] = float(number)
        except ValueError:
            raise UsageError(f"{option} {part}: write TASK=NUMBER, as in rte=70") from None
        if not abs(found[task]) < float("inf"):
            raise UsageError(f"{option} {part}: is no number that can be compared")
    return found


def _versions(text: str | None) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in text.split(",") if text else ():
        reference = parse_reference(part.strip())
        if not isinstance(reference, VersionReference):
            raise UsageError(f"--pin {part}: name a version, as in rte/3")
        if reference.task in found:
            raise UsageError(f"--pin: names {reference.task} twice")
        found[reference.task] = reference.number
    return found


def _document(plan: "Plan") -> dict[str, Any]:
    return {
        "selection": {task: _module(one) for task, one in plan.selection.items()},
        "trunk_layers": plan.trunk_layers,
        "task_layers": plan.task_layers,
        "layer_count": plan.layer_count,
        "average": plan.average,
    }


def _module(one: "Candidate") -> dict[str, Any]:
    return {name: value for name, value in one._asdict().items() if value is not None}


def _show(plan: "Plan", *, as_json: bool) -> None:
    if as_json:
        print_json(_document(plan))
        return
    print_table(
        ["task", *map(number_column, ("k", "l", "score")), number_column("version")],
        [
            (
                task,
                str(one.frozen_depth),
                str(one.task_layers),
                f"{one.score:g}",
                "" if one.version is None else str(one.version),
            )
            for task, one in plan.selection.items()
        ],
    )
    print_line("")
    layers = f"{plan.layer_count}: {plan.trunk_layers} of the trunk and {plan.task_layers} of the tasks"
    print_fields([("layers", layers), ("average", f"{plan.average:.3f}")])


def _show_frontier(plans: "Sequence[Plan]", *, as_json: bool) -> None:
    if as_json:
        print_json({"frontier": [_document(one) for one in plans]})
        return
    print_table(
        [*map(number_column, ("layers", "trunk", "tasks", "average")), "gained"],
        [
            (
                str(one.layer_count),
                str(one.trunk_layers),
                str(one.task_layers),
                f"{one.average:.3f}",
                _changed(before, one) if before else "",
            )
            for before, one in zip([None, *plans], plans, strict=False)
        ],
    )


def _changed(before: "Plan", after: "Plan") -> str:
    """Which tasks have another module than with fewer layers."""
    moved = [
        f"{task} {before.selection[task].score:g} to {one.score:g}"
        for task, one in after.selection.items()
        if before.selection[task] != one
    ]
    return ", ".join(moved[:4]) + (f" and {len(moved) - 4} more" if len(moved) > 4 else "")
