"""Plans as tables and as JSON."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cli.plan_source import PlanSource
from cli.rendering import number_column, print_fields, print_line, print_table

if TYPE_CHECKING:
    from pipelines.planning import Candidate, Plan
    from pipelines.release_costs import ReleaseCosts

_MOST_MOVES = 4


def plan_document(plan: "Plan", costs: "ReleaseCosts | None" = None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "selection": {task: _module(one) for task, one in plan.selection.items()},
        "trunk_layers": plan.trunk_layers,
        "task_layers": plan.task_layers,
        "layer_count": plan.layer_count,
        "average": plan.average,
    }
    if costs is not None:
        document["costs"] = {
            "parameters": costs.parameters,
            "flops": costs.flops,
            "length": costs.length,
            "weight_bytes": {precision: costs.weight_bytes(precision) for precision in ("fp32", "bf16")},
        }
    return document


def _module(one: "Candidate") -> dict[str, Any]:
    return {name: value for name, value in one._asdict().items() if value is not None}


def print_plan(plan: "Plan", costs: "ReleaseCosts | None") -> None:
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
    average = f"{plan.average:.3f}, the mean of the tasks' scores, each as it was registered or given"
    print_fields([("layers", _layers(plan)), ("average", average), *_cost_fields(costs)])


def averages_in_both(before: "Plan", after: "Plan") -> dict[str, float] | None:
    """Of the tasks that both plans hold, each weighing the same; None where they share none.

    A hard task that comes lowers the average of all without harming any: what it costs the others shows here.
    """
    both = before.selection.keys() & after.selection.keys()
    if not both:
        return None
    return {
        name: fmean(plan.selection[task].score for task in both)
        for name, plan in (("before", before), ("after", after))
    }


def print_what_if(before: "Plan", after: "Plan", costs: "Sequence[ReleaseCosts | None]") -> None:
    """Two plans side by side: every task that only one of them holds, or that each has another module of."""
    rows = [
        (task, _words(before.selection.get(task)), _words(after.selection.get(task)))
        for task in dict.fromkeys([*before.selection, *after.selection])
        if before.selection.get(task) != after.selection.get(task)
    ]
    rows += [("layers", str(before.layer_count), f"{after.layer_count} ({after.layer_count - before.layer_count:+})")]
    rows += [("  of the trunk", str(before.trunk_layers), str(after.trunk_layers))]
    rows += [("average", f"{before.average:.3f}", f"{after.average:.3f}")]
    if (both := averages_in_both(before, after)) is not None:
        was, now = both["before"], both["after"]
        rows += [("  of the tasks in both", f"{was:.3f}", f"{now:.3f} ({now - was:+.3f})")]
    fields = zip(_cost_fields(costs[0]), _cost_fields(costs[1]), strict=True)
    rows += [(name, value, value_after) for (name, value), (_, value_after) in fields]
    print_table(["", "without the change", "with it"], rows)
    kept = len(before.selection.keys() & after.selection.keys()) - sum(
        task in before.selection and task in after.selection for task, *_ in rows
    )
    print_line(f"tasks that keep their modules: {kept}")


def print_frontier(plans: "Sequence[Plan]", release: "tuple[str, Plan] | None") -> None:
    """`release`: today's, which becomes a row of its own between them."""
    rows = [
        (one, _moves(before, one) if before else "") for before, one in zip([None, *plans], plans, strict=False)
    ]  # fmt: skip
    if release is not None:
        name, held = release
        rows.append((held, f"today's {name}"))
        rows.sort(key=lambda row: row[0].layer_count)
    print_table(
        [*map(number_column, ("layers", "trunk", "tasks", "average")), "gained"],
        [
            (str(one.layer_count), str(one.trunk_layers), str(one.task_layers), f"{one.average:.3f}", words)
            for one, words in rows
        ],
    )


def left_out_notes(source: PlanSource) -> list[str]:
    """What is not chosen from: a line for each reason, and one for the tasks that have nothing to choose from."""
    absent = [task for task in source.left_out if task not in source.candidates]
    by_reason: dict[str, list[str]] = {}
    for task, reasons in source.left_out.items():
        for reason, numbers in reasons.items():
            by_reason.setdefault(reason, []).append(f"{task}/{','.join(map(str, numbers))}")
    notes = [f"left out, {reason}: {', '.join(of_reason)}" for reason, of_reason in by_reason.items()]
    if source.release is not None and source.retired:
        notes.append(f"not in the plan, retired, though {source.release.name} holds them: {', '.join(source.retired)}")
    return [*notes, *([f"not in the plan, without a version that fits: {', '.join(absent)}"] if absent else [])]


def _layers(plan: "Plan") -> str:
    return f"{plan.layer_count}: {plan.trunk_layers} of the trunk and {plan.task_layers} of the tasks"


def _cost_fields(costs: "ReleaseCosts | None") -> list[tuple[str, str]]:
    if costs is None:
        return []
    return [
        ("parameters", f"{costs.parameters / 1e6:,.1f} million, without heads"),
        ("weights", f"{_megabytes(costs, 'fp32')} MB in fp32, {_megabytes(costs, 'bf16')} MB in bf16"),
        ("operations", f"{costs.flops / 1e9:,.2f} GFLOP for a text of {costs.length} tokens"),
    ]  # fmt: skip


def _megabytes(costs: "ReleaseCosts", precision: str) -> str:
    return f"{costs.weight_bytes(precision) / 1e6:,.0f}"


def _words(one: "Candidate | None") -> str:
    if one is None:
        return ""
    version = "" if one.version is None else f", version {one.version}"
    return f"{one.score:g} ({one.frozen_depth}, {one.task_layers}){version}"


def _moves(before: "Plan", after: "Plan") -> str:
    """Which tasks have another module than with fewer layers."""
    moved = [
        f"{task} {before.selection[task].score:g} to {one.score:g}"
        for task, one in after.selection.items()
        if before.selection[task] != one
    ]
    hidden = len(moved) - _MOST_MOVES
    return ", ".join(moved[:_MOST_MOVES]) + (f" and {hidden} more" if hidden > 0 else "")


def selection_lock(plan: "Plan", backbone: str) -> Mapping[str, Any]:
    """The plan as a lock, its modules all being registered versions."""
    return {"backbone": backbone, "tasks": {task: one.version for task, one in plan.selection.items()}}
