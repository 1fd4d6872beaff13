"""What all steps of a default search come to, from steps that were measured at some numbers of layers."""

from bisect import bisect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search_replay import peaked_search

from cli.search_options import STUDENT_EPOCHS, default_layers, default_students
from pipelines.training.recipes import Distillation, Recipe
from registry.domain.searches import LedgerTrial, SearchOptions


@dataclass(frozen=True)
class Step:
    """A step of a branch of some layers."""

    milliseconds: float
    shares: Mapping[str, float]
    """What is useful of that time, by whatever counts."""


@dataclass(frozen=True)
class SearchSteps:
    """All steps of a search, of teachers and students."""

    shares: Mapping[str, float]
    one_layer: float
    """Share of their time that steps of one layer take."""


def default_search(backbone_layers: int, *, peak: int) -> tuple[LedgerTrial, ...]:
    """The trials of a search with its defaults that L = `peak` wins."""
    recipe = Recipe(learning_rate=1e-4)
    taught = recipe.model_copy(update={"epochs": STUDENT_EPOCHS, "distillation": Distillation()})
    layers = default_layers(backbone_layers)
    options = SearchOptions(
        layers=layers,
        seeds=5,
        learning_rates=(recipe.learning_rate,),
        students=default_students(layers),
        recipe=recipe.model_dump(mode="json"),
        student_recipe=taught.model_dump(mode="json"),
        head={},
    )
    return peaked_search(options, backbone_layers, peak=peak, first_piece_only=True)


def search_steps(trials: Sequence[LedgerTrial], measured: Mapping[int, Step]) -> SearchSteps:
    """Every epoch has the same number of steps, so epochs weigh the steps of each number of layers.

    Args:
        measured: by number of layers, of 1 and another one at least; between and beyond them times are taken as linear.
    """
    epochs: Counter[int] = Counter()
    for trial in trials:
        epochs[trial.shape.task_layers] += trial.epochs_done
    times = {layers: step.milliseconds for layers, step in measured.items()}
    spent = {layers: count * linear(times, layers) for layers, count in epochs.items()}
    total = sum(spent.values())
    shares = {}
    for name in next(iter(measured.values())).shares:
        useful = {layers: step.milliseconds * step.shares[name] for layers, step in measured.items()}
        shares[name] = sum(count * linear(useful, layers) for layers, count in epochs.items()) / total
    return SearchSteps(shares, spent.get(1, 0.0) / total)


def linear(points: Mapping[int, float], at: int) -> float:
    """On the line through the two points around `at`, or through the two nearest ones."""
    known = sorted(points)
    place = min(max(bisect(known, at), 1), len(known) - 1)
    low, high = known[place - 1], known[place]
    return points[low] + (points[high] - points[low]) * (at - low) / (high - low)
