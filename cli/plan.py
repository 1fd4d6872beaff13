"""`plan`: which module of each task a release should take, under a budget of layers."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.application import AsJson, Context, example
from cli.number_lists import numbers_of
from cli.plan_options import pinned_versions, refuse_together, task_changes, task_weights
from cli.plan_source import PlanSource, read_candidates, registered_source
from cli.plan_svg import frontier_svg
from cli.plan_tables import (
    averages_in_both,
    left_out_notes,
    plan_document,
    print_frontier,
    print_plan,
    print_what_if,
    selection_lock,
)
from cli.rendering import print_json, print_note
from registry.artifacts.atomic_file import write_atomically
from registry.domain.references import check_name
from registry.errors import UsageError

if TYPE_CHECKING:
    from pipelines.planning import Candidates, Plan
    from pipelines.release_costs import ReleaseCosts

app = typer.Typer()


@app.command(
    epilog=example(
        "trunkline plan --budget 20 --floor rte=66 --weights cola=2 --lock lock.yaml",
        "trunkline plan --min-gain 2 --what-if +sst",
        "trunkline plan --frontier --svg frontier.svg",
        "trunkline plan --candidates candidates.json --min-gain 2 --json",
    )
)
def plan(
    ctx: typer.Context,
    candidates: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Choose from this file instead of the registry; docs/planning.md has an example.",
        ),
    ] = None,
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
        str | None,
        typer.Option("--pin", metavar="VERSION,...", help="Versions that tasks must have: TASK/N or TASK@ALIAS."),
    ] = None,
    excluded: Annotated[str | None, typer.Option("--exclude", metavar="TASK,...", help="Tasks to leave out.")] = None,
    what_if: Annotated[
        str | None,
        typer.Option(
            metavar="+TASK|-TASK,...", help="Beside it, the plan with a task more (+: else left out) or less (-)."
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The backbone. [default: that of today's release, or the only one]"),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of the text that operations are counted for. [default: the backbone's most]"),
    ] = None,
    lock: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the selection for `release assemble --lock`.")
    ] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw the frontier into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Choose one version of each task for a release.

    A release costs its layer count: the deepest frozen depth in use and all task layers together. Chooses from every
    version of the active tasks that fits the backbone; a task's scores are compared on the same dev data only.
    """
    context: Context = ctx.obj
    _refuse_misfits(
        min_gain=min_gain,
        budget=budget,
        frontier=frontier,
        weights=weights,
        what_if=what_if,
        lock=lock,
        svg=svg,
        only_registered={"--backbone": backbone, "--length": length, "--lock": lock} if candidates else {},
    )

    from pipelines import planning

    source = read_candidates(context.cwd / candidates) if candidates else _read_registry(context, backbone)
    for note in left_out_notes(source):
        print_note(note)
    added, removed = task_changes(what_if, among=source.candidates.keys())
    tasks = planning.restricted(
        source.candidates,
        floors=numbers_of(floors, "--floor"),
        pins=pinned_versions(context, pins, from_file=candidates is not None),
        excluded=[check_name("task", task.strip()) for task in excluded.split(",")] if excluded else (),
    )
    if gone := sorted((added | removed) - tasks.keys()):
        raise UsageError(f"--what-if: {', '.join(gone)} is excluded")
    weighing = task_weights(weights, among=tasks.keys())

    def chosen(among: "Candidates") -> "Plan":
        if budget is not None:
            return planning.plan_by_budget(among, budget=budget, weights=weighing)
        assert min_gain is not None  # noqa: S101 - one of the two was given
        return planning.plan_by_gain(among, least_gain=min_gain)

    costs_of = _costs_of(source, length)
    if frontier:
        _show_frontier(
            source,
            tasks,
            weighing,
            None if svg is None else context.cwd / svg,
            as_json=as_json,
        )
    elif what_if is not None:
        before, after = (chosen(_without(tasks, names)) for names in (added, removed))
        _show_what_if(before, after, costs_of, as_json=as_json)
    else:
        found = chosen(tasks)
        if lock is not None:
            assert source.backbone is not None  # noqa: S101 - --lock goes with the registry
            _write_lock(context.cwd / lock, found, source.backbone.name)
        _show(found, costs_of(found), as_json=as_json)


def _refuse_misfits(
    *,
    min_gain: float | None,
    budget: int | None,
    frontier: bool,
    weights: str | None,
    what_if: str | None,
    lock: Path | None,
    svg: Path | None,
    only_registered: Mapping[str, object | None],
) -> None:
    """Options that contradict each other; `only_registered`: those that a file of candidates leaves no room for."""
    if [min_gain is not None, budget is not None, frontier].count(True) != 1:
        raise UsageError("give one of --min-gain, --budget and --frontier")
    if min_gain is not None and not min_gain < float("inf"):
        raise UsageError("--min-gain: is no number of points")
    if min_gain is not None and weights is not None:
        raise UsageError("--weights: the rule of --min-gain looks at each task alone; weights go with --budget")
    refuse_together(
        ("--candidates", bool(only_registered), only_registered),
        ("--frontier", frontier, {"--what-if": what_if, "--lock": lock}),
        ("--what-if", what_if is not None, {"--lock": lock}),
    )
    if svg is not None and not frontier:
        raise UsageError("--svg: draws what --frontier finds")


def _read_registry(context: Context, backbone: str | None) -> PlanSource:
    with context.database.read() as session:
        return registered_source(session, backbone)


def _without(tasks: "Candidates", names: set[str]) -> "Candidates":
    left = {task: of_task for task, of_task in tasks.items() if task not in names}
    if not left:
        raise UsageError("--what-if: no task would be left")
    return left


def _costs_of(source: PlanSource, length: int | None) -> "Callable[[Plan], ReleaseCosts | None]":
    from pipelines.release_costs import LayerSizes

    backbone = source.backbone
    if backbone is None:
        return lambda _: None
    tokens = length or backbone.max_length
    if tokens > backbone.max_length:
        raise UsageError(f"--length {tokens}: backbone {backbone.name} reads {backbone.max_length} tokens at most")
    sizes = LayerSizes.of(backbone)
    return lambda plan: sizes.costs(plan.layer_count, tokens)


def _write_lock(path: Path, plan: "Plan", backbone: str) -> None:
    """JSON, which YAML is a superset of, and `release assemble --lock` reads either."""
    write_atomically(path, json.dumps(selection_lock(plan, backbone), indent=2).encode() + b"\n")
    print_note(f"written: {path}; `trunkline release assemble --lock {path}` builds it")


def _show(plan: "Plan", costs: "ReleaseCosts | None", *, as_json: bool) -> None:
    if as_json:
        print_json(plan_document(plan, costs))
    else:
        print_plan(plan, costs)


def _show_what_if(
    before: "Plan", after: "Plan", costs_of: "Callable[[Plan], ReleaseCosts | None]", *, as_json: bool
) -> None:
    costs = [costs_of(one) for one in (before, after)]
    if as_json:
        documents = {"before": plan_document(before, costs[0]), "after": plan_document(after, costs[1])}
        print_json({**documents, "average_of_tasks_in_both": averages_in_both(before, after)})
    else:
        print_what_if(before, after, costs)


def _show_frontier(
    source: PlanSource,
    among: "Candidates",
    weights: Mapping[str, float],
    svg: Path | None,
    *,
    as_json: bool,
) -> None:
    from pipelines.planning import frontier

    plans = frontier(among, weights=weights)
    held = source.release_plan(among, weights)
    release = (source.release.name, held) if source.release is not None and held is not None else None
    if source.release is not None and held is None:
        print_note(f"today's {source.release.name} is not marked: it holds other tasks, or versions not chosen from")
    if svg is not None:
        write_atomically(svg, frontier_svg(plans, release).encode())
        print_note(f"drawn into {svg}")
    if as_json:
        today = {"release": release[0], **plan_document(release[1])} if release else None
        print_json({"frontier": [plan_document(one) for one in plans], "today": today})
    else:
        print_frontier(plans, release)
