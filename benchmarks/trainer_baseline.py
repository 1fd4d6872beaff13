"""Partial and full fine-tuning, and distillation, as a practitioner would run them today: transformers' `Trainer`.

Nothing of Trunkline trains here; only the metric and the files are ours, so that results can be compared. Where there
is a choice, the faster one is taken: rows of like length together, batches padded to their longest row, frozen layers
without gradients and without dropout, no checkpoints, no logging. `Trainer` needs the package accelerate.

Classification and regression; one run alone:

    .venv/bin/python benchmarks/trainer_baseline.py --model FOLDER --data FOLDER --task rte --frozen 6 --seed 0

`--frozen none` trains the embeddings and all layers.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_tasks import TaskFiles
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import SequentialSampler
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging

from modeling.precision import best_precision
from pipelines.data.dataset import Dataset, load_dataset
from pipelines.training.metrics import score
from pipelines.training.recipes import Recipe, make_recipe
from registry.artifacts.atomic_file import write_atomically
from registry.domain.task_specs import TaskSpec, TaskType

MAX_LENGTH = 128
EVALUATION_BATCH = 64

Encoded = list[dict[str, Any]]


@dataclass(frozen=True)
class BaselineResult:
    epoch_seconds: list[float]
    """One an epoch of training."""
    evaluation_seconds: list[float]
    """One an evaluation on the dev data."""
    total_seconds: float
    """From the model's files to the last evaluation."""
    scores: dict[int, float]
    """Scored epoch -> the task's metric on the dev data."""


@dataclass
class _Clock(TrainerCallback):
    """Times the epochs, and asks for an evaluation after those that the recipe scores."""

    evaluate_from: int
    epoch_seconds: list[float] = field(default_factory=list)
    began: float = 0.0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.began = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.epoch_seconds.append(time.perf_counter() - self.began)
        control.should_evaluate = round(state.epoch) >= self.evaluate_from


class BaselineTrainer(Trainer):
    """The loss in fp32, and against a teacher's logits where the rows carry them."""

    recipe: Recipe
    target_scale: float
    evaluation_seconds: list[float]
    scores: dict[int, float]

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        labels, taught = inputs.pop("labels"), inputs.pop("teacher_logits", None)
        outputs = model(**inputs)
        logits = outputs.logits.float()
        if logits.shape[1] == 1:
            hard = ((logits[:, 0] - labels) / self.target_scale).square().mean()
            soft = None if taught is None else ((logits - taught) / self.target_scale).square().mean()
        else:
            hard = functional.cross_entropy(logits, labels)
            soft = None if taught is None else self._soft(logits, taught)
        loss = hard if soft is None else self._weight * soft + (1 - self._weight) * hard
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *arguments: Any, **more: Any) -> dict[str, float]:
        began = time.perf_counter()
        found: dict[str, float] = super().evaluate(*arguments, **more)
        self.evaluation_seconds.append(time.perf_counter() - began)
        self.scores[round(self.state.epoch or 0)] = found["eval_score"]
        return found

    def _get_eval_sampler(self, eval_dataset: Any) -> SequentialSampler:
        return SequentialSampler(eval_dataset)  # the rows are sorted by length already

    @property
    def _weight(self) -> float:
        assert self.recipe.distillation is not None  # noqa: S101 - rows carry logits only where it is set
        return self.recipe.distillation.soft_weight

    def _soft(self, logits: Tensor, taught: Tensor) -> Tensor:
        assert self.recipe.distillation is not None  # noqa: S101
        heat = self.recipe.distillation.temperature
        told, said = (torch.log_softmax(values / heat, dim=-1) for values in (taught, logits))
        return heat**2 * functional.kl_div(said, told, reduction="batchmean", log_target=True)


def encode(spec: TaskSpec, dataset: Dataset, model: Path) -> Encoded:
    """The rows as `Trainer` takes them: tokenised once, not padded."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [example.text for example in dataset.examples]
    pairs = [example.text_pair for example in dataset.examples]
    encoded = tokenizer(
        texts, pairs if spec.input_form == "pair" else None, truncation="longest_first", max_length=MAX_LENGTH
    )
    numbers = {label: number for number, label in enumerate(spec.labels)}
    labels = [
        example.target if spec.type is TaskType.REGRESSION else numbers[str(example.target)]
        for example in dataset.examples
    ]
    names = [name for name in ("input_ids", "token_type_ids", "attention_mask") if name in encoded]
    return [{**{name: encoded[name][row] for name in names}, "labels": label} for row, label in enumerate(labels)]


def partly_frozen_model(
    model: Path, *, outputs: int, frozen: int | None, layers: int | None, attention: str
) -> PreTrainedModel:
    """The encoder with a classifier, its embeddings and its first `frozen` layers frozen and always in eval mode.

    Args:
        frozen: None trains everything.
        layers: keeps the first so many layers only, as a student does; None for all.
    """
    config = AutoConfig.from_pretrained(model, num_labels=outputs)
    if layers is not None:
        config.num_hidden_layers = layers
    built: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        model, config=config, attn_implementation=attention, dtype=torch.float32
    )
    if frozen is None:
        return built
    base = built.base_model
    still = [base.embeddings, *base.encoder.layer[:frozen]]
    for part in still:
        part.requires_grad_(False)
    train = built.train

    def train_the_rest(mode: bool = True) -> PreTrainedModel:
        train(mode)
        for part in still:
            part.eval()
        return built

    built.train = train_the_rest  # type: ignore[method-assign]
    return built


def run_baseline(
    spec: TaskSpec,
    *,
    model: Path,
    train: Encoded,
    dev: Encoded,
    gold: Sequence[Any],
    recipe: Recipe,
    seed: int,
    frozen: int | None,
    layers: int | None = None,
    attention: str = "sdpa",
    teacher_logits: np.ndarray[Any, Any] | None = None,
) -> BaselineResult:
    """Trains one model and scores it after every epoch from `recipe.evaluate_from` on.

    Args:
        gold: the dev targets.
        teacher_logits: [rows, outputs] fp32 of the training rows; makes it a distillation.
    """
    began = time.perf_counter()
    if teacher_logits is not None:
        train = [{**row, "teacher_logits": logits} for row, logits in zip(train, teacher_logits, strict=True)]
    outputs = 1 if spec.type is TaskType.REGRESSION else len(spec.labels)
    built = partly_frozen_model(model, outputs=outputs, frozen=frozen, layers=layers, attention=attention)
    targets = np.array([row["labels"] for row in train], dtype=np.float64)
    if spec.type is TaskType.REGRESSION:
        nn.init.constant_(built.get_submodule("classifier").bias, float(targets.mean()))
    order = sorted(range(len(dev)), key=lambda row: len(dev[row]["input_ids"]))
    clock = _Clock(recipe.evaluate_from)

    def scored(answers: Any) -> dict[str, float]:
        predicted = _decided(spec, answers.predictions)
        return {"score": score(spec, [gold[row] for row in order], predicted)[spec.metric]}

    with tempfile.TemporaryDirectory() as scratch:
        trainer = BaselineTrainer(
            model=built,
            args=_arguments(recipe, seed=seed, folder=scratch),
            train_dataset=train,
            eval_dataset=[dev[row] for row in order],
            data_collator=_Collator(model),
            compute_metrics=scored,
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.recipe, trainer.target_scale = recipe, float(targets.std()) or 1.0
        trainer.evaluation_seconds, trainer.scores = [], {}
        trainer.train()
    return BaselineResult(clock.epoch_seconds, trainer.evaluation_seconds, time.perf_counter() - began, trainer.scores)


def _arguments(recipe: Recipe, *, seed: int, folder: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        seed=seed,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=EVALUATION_BATCH,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=recipe.warmup_share,  # below 1 it is a share
        weight_decay=recipe.weight_decay,
        adam_beta1=recipe.beta1,
        adam_beta2=recipe.beta2,
        adam_epsilon=recipe.epsilon,
        max_grad_norm=recipe.clip_norm,
        use_cpu=True,
        bf16=recipe.precision == "bf16",
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        label_names=["labels"],
        eval_strategy="no",  # asked for by the callback
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


class _Collator:
    """Pads to the batch's longest row and passes the teacher's logits on.

    Not to a multiple of 8, as one would on a GPU: on a CPU that costs up to 15 % on short texts
    (docs/training_speed.md).
    """

    def __init__(self, model: Path) -> None:
        self._pad = DataCollatorWithPadding(AutoTokenizer.from_pretrained(model))

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        inputs = [{name: value for name, value in row.items() if name != "teacher_logits"} for row in rows]
        batch = dict(self._pad(inputs))
        if "teacher_logits" in rows[0]:
            batch["teacher_logits"] = torch.tensor(np.stack([row["teacher_logits"] for row in rows]))
        return batch


def _decided(spec: TaskSpec, logits: np.ndarray[Any, Any]) -> list[Any]:
    if spec.type is TaskType.REGRESSION:
        return logits[:, 0].tolist()
    return [spec.labels[number] for number in logits.argmax(axis=-1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a BERT encoder")
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder a task")
    parser.add_argument("--task", required=True)
    parser.add_argument("--frozen", default="none", help="frozen layers, or none: everything is trained")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, help="default: as `trunkline train` takes it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--limit-rows", type=int)
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--out", type=Path, help="write the result here too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        files = TaskFiles.read(arguments.task, arguments.data, Path(scratch), limit_rows=arguments.limit_rows)
        spec = files.spec()
        train, dev = load_dataset(spec, "train"), load_dataset(spec, "dev")
    hidden_size = AutoConfig.from_pretrained(arguments.model).hidden_size
    result = run_baseline(
        spec,
        model=arguments.model,
        train=encode(spec, train, arguments.model),
        dev=encode(spec, dev, arguments.model),
        gold=[example.target for example in dev.examples],
        recipe=make_recipe(
            "default",
            hidden_size=hidden_size,
            precision=best_precision(torch.device("cpu")),
            epochs=arguments.epochs,
            learning_rate=arguments.learning_rate,
        ),
        seed=arguments.seed,
        frozen=None if arguments.frozen == "none" else int(arguments.frozen),
        attention=arguments.attention,
    )
    document = {"task": arguments.task, "frozen": arguments.frozen, "seed": arguments.seed, **asdict(result)}
    if arguments.out:
        write_atomically(arguments.out, json.dumps(document).encode())
    print(json.dumps(document))


if __name__ == "__main__":
    main()
