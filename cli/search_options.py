"""From what a command line asks of a search to the search's options, every wrong number refused at once."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from cli.devices import chosen_device
from cli.number_lists import positive_numbers, whole_numbers
from registry.domain.manifests import HeadConfig
from registry.domain.searches import SearchOptions
from registry.errors import UsageError

if TYPE_CHECKING:
    from pipelines.search.problem import Problem
    from pipelines.training.recipes import Distillation

STUDENT_EPOCHS = 10
"""As in CentraBERT, the paper's own code (distill.py): a student's epoch costs a fraction of its teacher's."""


def search_options(
    problem: "Problem",
    *,
    layers: str | None,
    seeds: int,
    learning_rates: str | None,
    students: str | None,
    student_depths: str | None,
    initialisations: str,
    strategy: Literal["halving", "exhaustive"],
    rule: Literal["parsimonious", "best"],
    recipe: Literal["default", "paper"],
    epochs: int | None,
    student_epochs: int,
    precision: Literal["auto", "fp32", "bf16"],
    device: str,
    distillation: "Distillation",
    head: HeadConfig,
) -> SearchOptions:
    """Raises UsageError listing every number that does not fit the backbone, or another one."""
    from modeling.precision import best_precision
    from pipelines.training.recipes import make_recipe

    depth = problem.backbone.layer_count
    problems = []
    wanted = whole_numbers(layers, "--layers") if layers else default_layers(depth)
    problems += [f"--layers {one}: must be 1 to {depth}" for one in wanted if not 1 <= one <= depth]
    if students is None:
        taught = default_students(wanted)
    else:
        taught = () if students == "none" else whole_numbers(students, "--students")
    problems += [f"--students {one}: must be 1 to {depth}" for one in taught if not 1 <= one <= depth]
    depths = whole_numbers(student_depths, "--student-depths") if student_depths else None
    problems += [f"--student-depths {one}: must be 0 to {depth - 1}" for one in depths or () if one >= depth]
    if depths and not taught:
        problems.append("--student-depths: there are none, as --students none asks")
    begins = tuple(dict.fromkeys(part.strip() for part in initialisations.split(",")))
    if not problems:
        problems += _misfits(wanted, taught, depths, depth)
    problems += [f"--init {one}: must be teacher or backbone" for one in begins if one not in ("teacher", "backbone")]
    if problems:
        raise UsageError(
            f"search of {problem.spec.task} on {problem.backbone.name} of {depth} layers: {'; '.join(problems)}"
        )
    multiplied = best_precision(chosen_device(device)) if precision == "auto" else precision
    teachers = make_recipe(recipe, hidden_size=problem.backbone.hidden_size, precision=multiplied, epochs=epochs)
    rates = positive_numbers(learning_rates, "--lr") if learning_rates else (teachers.learning_rate,)
    learners = teachers.model_copy(
        update={
            "epochs": student_epochs,
            "evaluate_from": -(-3 * student_epochs // 5),
            "distillation": distillation,
        }
    )
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
        head=head.model_dump(mode="json"),
    )


def default_layers(depth: int) -> tuple[int, ...]:
    """L of the teachers: from a third to five sixths of the backbone, the paper's 4 to 10 of 12 (appendix B)."""
    return tuple(range(max(1, depth // 3), max(1, depth * 5 // 6) + 1))


def default_students(teachers: Sequence[int]) -> tuple[int, ...]:
    """1 to 3 layers, as far as the largest teacher has so many."""
    return tuple(range(1, min(_MOST_STUDENT_LAYERS, max(teachers)) + 1))


def _misfits(
    layers: Sequence[int], students: Sequence[int], depths: Sequence[int] | None, backbone_layers: int
) -> Iterator[str]:
    """Students that fit under none of the teachers."""
    lowest = backbone_layers - max(layers)
    for size in students:
        if size > max(layers):
            yield f"--students {size}: no teacher of --layers has so many"
        elif depths is not None and not any(lowest <= depth <= backbone_layers - size for depth in depths):
            highest = backbone_layers - size
            yield f"--student-depths: a student of {size} layers can leave after layer {lowest} to {highest}"


_MOST_STUDENT_LAYERS = 3
"""As many as the paper distils into."""
