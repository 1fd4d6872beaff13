"""The loss of a batch, against the labels and, for a student, against its teacher.

Shapes: B = rows, W = words, R = the predicted places (texts, or words that have a token), O = the head's outputs,
H = hidden size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from modeling.batching import places
from modeling.heads import Head
from pipelines.training.recipes import Distillation
from registry.domain.task_specs import TaskType


def loss_of(
    outputs: Tensor,
    targets: Tensor,
    *,
    type: TaskType,  # noqa: A002 - the spec's own word
    target_scale: float,
    teacher_outputs: Tensor | None = None,
    distillation: Distillation | None = None,
) -> Tensor:
    """Mean loss over the places: a scalar in fp32.

    Classification: cross entropy; soft part T² · KL(teacher/T ‖ student/T) (Hinton et al., 2015, section 2: the T²
    keeps its gradients on the scale of the hard part's). Regression: squared error in units of the targets' standard
    deviation, against the labels and against the teacher.

    Args:
        outputs: [R, O] raw outputs, any float dtype.
        targets: [R] label numbers (int64), or numbers (float32) for regression.
        target_scale: standard deviation of the training targets; 1 for classification.
        teacher_outputs: [R, O] fp32, together with `distillation`.
    """
    outputs = outputs.float()
    if type is TaskType.REGRESSION:
        hard = ((outputs[:, 0] - targets) / target_scale).square().mean()
    else:
        hard = functional.cross_entropy(outputs, targets)
    if teacher_outputs is None or distillation is None:
        return hard
    if type is TaskType.REGRESSION:
        soft = ((outputs - teacher_outputs) / target_scale).square().mean()
    else:
        temperature = distillation.temperature
        soft = temperature**2 * functional.kl_div(
            torch.log_softmax(outputs / temperature, dim=-1),
            torch.log_softmax(teacher_outputs / temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
    return distillation.soft_weight * soft + (1 - distillation.soft_weight) * hard


def hidden_loss(features: Tensor, teacher_features: Tensor) -> Tensor:
    """Mean over the places of |student - teacher|² / |teacher|²: a scalar in fp32.

    It is the mean squared error (of hidden states, as in TinyBERT: Jiao et al., 2020, equation 8) in units of the
    teacher's own mean square. So 1 is what a student that reads zeros would pay, whatever the encoder's width and the
    scale of its hidden states, and one `hidden_weight` means the same for all of them.

    Args:
        features: [R, H], what the student's head reads, any float dtype.
        teacher_features: [R, H] fp32, what the teacher's head read there.
    """
    distance = (features.float() - teacher_features).square().sum(dim=-1)
    return (distance / teacher_features.square().sum(dim=-1).clamp(min=1e-12)).mean()


@dataclass(frozen=True)
class TeacherAnswers:
    """What the teacher says at a batch's places."""

    outputs: Tensor
    """[R, O] fp32."""
    features: Tensor | None = None
    """[R, H] fp32, what its head answered from; None where nobody asks for it."""


@dataclass(frozen=True)
class Objective:
    """What a module is trained towards, whatever the batch."""

    type: TaskType
    target_scale: float
    """Standard deviation of the training targets; 1 for classification."""
    distillation: Distillation | None = None

    def loss(
        self,
        head: Head,
        features: Tensor,
        word_tokens: Tensor,
        targets: Tensor,
        teacher: TeacherAnswers | None = None,
    ) -> Tensor:
        """Mean loss of a batch: a scalar in fp32.

        Args:
            features: [B, H] or [B, W, H], what the head answers from.
            word_tokens: [B, W] int64, -1 where a word has no piece.
            targets: [R] label numbers (int64), or numbers (float32) for regression.
            teacher: together with a distillation.
        """
        outputs = head(features, word_tokens)
        loss = loss_of(
            places(outputs, word_tokens),
            targets,
            type=self.type,
            target_scale=self.target_scale,
            teacher_outputs=None if teacher is None else teacher.outputs,
            distillation=self.distillation,
        )
        if self.distillation is None or teacher is None or teacher.features is None:
            return loss
        return loss + self.distillation.hidden_weight * hidden_loss(places(features, word_tokens), teacher.features)
