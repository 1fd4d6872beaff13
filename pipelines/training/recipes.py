"""Recipes: every number that training depends on and the task does not say."""

from collections.abc import Mapping
from typing import Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from registry.domain.plain_data import Plain
from registry.domain.searches import Initialisation
from registry.domain.task_specs import validation_problems
from registry.errors import UsageError

Precision = Literal["fp32", "bf16"]
RecipeName = Literal["default", "paper"]

Checked = TypeVar("Checked", bound=Plain)


class Distillation(Plain):
    """Vanilla distillation (Hinton et al., 2015): soft and hard loss, mixed; beside it, where asked, hidden states.

    Temperature and mix are the usual middle values, not tuned for any task.
    """

    initialisation: Initialisation = "teacher"
    """teacher: its layers and its head. backbone: the pretrained layers, and a head drawn from the seed."""
    temperature: float = Field(default=2.0, gt=0)
    soft_weight: float = Field(default=0.7, ge=0, le=1)
    """Weight of the loss against the teacher; the labels get the rest."""
    hidden_weight: float = Field(default=0.0, ge=0)
    """Weight of the loss against what the teacher's head reads, beside the others; it is relative, 1 where the
    student reads zeros. The teacher's features are computed only where it is above 0."""


class Recipe(Plain):
    """AdamW and its schedule. The defaults are the paper's (appendix B, table 4) but for the learning rate.

    Warm-up, linear decay and gradient clipping are BERT's own (Devlin et al., 2019), which the paper says it follows.
    """

    name: RecipeName = "default"
    learning_rate: float = Field(gt=0)
    epochs: int = Field(default=5, ge=1)
    evaluate_from: int = Field(default=3, ge=1)
    """First epoch that may be kept: of those from here on the best one by its dev score is. Every epoch is scored."""
    scalar_rate: float = Field(default=1e-2, gt=0)
    """Learning rate of what weighs things by single numbers (a CRF's scores, the mix of layers), with the schedule of
    the other. Such numbers have to move by about 1, whatever the encoder's width, and the rate that is right for its
    matrices moves them by a hundredth in a whole training."""
    batch_size: int = Field(default=32, ge=1)
    warmup_share: float = Field(default=0.1, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    clip_norm: float = 1.0
    precision: Precision = "fp32"
    distillation: Distillation | None = None

    @model_validator(mode="after")
    def _scored_at_least_once(self) -> Self:
        if self.evaluate_from > self.epochs:
            raise ValueError(f"evaluate_from {self.evaluate_from} is after the last epoch, {self.epochs}")
        return self

    @property
    def statistic(self) -> str:
        """What a metric of this recipe is of."""
        if self.evaluate_from == self.epochs:
            return f"epoch {self.epochs}, one run"
        return f"best of epochs {self.evaluate_from}-{self.epochs}, one run"


def default_learning_rate(hidden_size: int) -> float:
    """2e-5 at width 768, growing with the third power of the narrowing: 1.6e-4 at 384.

    A fit through what was measured: 2e-5 is BERT-base's (Devlin et al., 2019); encoders of 384 learn next to nothing
    with it in three epochs, and well at 1e-4 to 2e-4. Nothing narrower was measured, so it ends at 5e-4.
    """
    return min(2e-5 * (768 / hidden_size) ** 3, 5e-4)


def make_recipe(
    name: RecipeName,
    *,
    hidden_size: int,
    precision: Precision,
    learning_rate: float | None = None,
    epochs: int | None = None,
    distillation: Distillation | None = None,
) -> Recipe:
    """The named recipe with what the caller sets itself. With fewer than 3 epochs the last one is kept.

    Raises:
        UsageError: a number is outside its range; lists all of them.
    """
    if learning_rate is None:
        learning_rate = 2e-5 if name == "paper" else default_learning_rate(hidden_size)
    chosen: dict[str, object] = {"name": name, "learning_rate": learning_rate, "precision": precision}
    if epochs is not None:
        chosen |= {"epochs": epochs, "evaluate_from": min(epochs, Recipe.model_fields["evaluate_from"].default)}
    return checked(Recipe, chosen | {"distillation": distillation})


def checked(kind: type[Checked], values: Mapping[str, object]) -> Checked:
    """Builds a part of a recipe from what a caller chose; raises UsageError listing what is out of range."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"recipe: {'; '.join(validation_problems(error))}") from None
