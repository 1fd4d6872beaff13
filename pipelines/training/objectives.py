"""The loss of a batch, against the labels and, for a student, against its teacher.

Shapes: B = rows, W = words, R = the predicted places (texts, or words that have a token), O = the head's outputs,
H = hidden size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from modeling.batching import places
from modeling.crf import (
    Transitions,
    legal_tags,
    log_marginals,
    negative_log_likelihood,
    words_with_a_piece,
)
from modeling.heads import Head
from pipelines.training.recipes import Distillation
from registry.domain.task_specs import TaskType


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the places of KL(teacher ‖ student), of log probabilities [R, O]; what the teacher gives probability 0
    counts nothing, so that -inf on both sides is no NaN."""
    impossible = teacher == -torch.inf
    student, teacher = student.masked_fill(impossible, 0.0), teacher.masked_fill(impossible, 0.0)
    return (teacher.exp() * (teacher - student)).masked_fill(impossible, 0.0).sum(dim=-1).mean()


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
    teacher_transitions: Transitions | None = None
    """Of the teacher's CRF, where it has one."""

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
        outputs = head(features, word_tokens).float()
        if head.transitions is None:
            hard, soft = self._of_places(places(outputs, word_tokens), targets, teacher)
        else:
            hard, soft = self._of_sequences(outputs, word_tokens, targets, head.transitions, teacher)
        if self.distillation is None or soft is None:
            return hard
        loss = self.distillation.soft_weight * soft + (1 - self.distillation.soft_weight) * hard
        if teacher is None or teacher.features is None:
            return loss
        return loss + self.distillation.hidden_weight * hidden_loss(places(features, word_tokens), teacher.features)

    def _of_places(
        self, outputs: Tensor, targets: Tensor, teacher: TeacherAnswers | None
    ) -> tuple[Tensor, Tensor | None]:
        """Hard and soft loss of outputs [R, O] that answer each for itself, both means over the places.

        Classification: cross entropy; soft T² · KL(teacher/T ‖ student/T) (Hinton et al., 2015, section 2: the T² keeps
        its gradients on the scale of the hard part's). Regression: squared error in units of the targets' standard
        deviation, against the labels and against the teacher.
        """
        distillation = self.distillation
        if self.type is TaskType.REGRESSION:
            hard = ((outputs[:, 0] - targets) / self.target_scale).square().mean()
        else:
            hard = functional.cross_entropy(outputs, targets)
        if teacher is None or distillation is None:
            return hard, None
        if self.type is TaskType.REGRESSION:
            return hard, ((outputs - teacher.outputs) / self.target_scale).square().mean()
        return hard, distillation.temperature**2 * _divergence(
            torch.log_softmax(outputs / distillation.temperature, dim=-1),
            torch.log_softmax(teacher.outputs / distillation.temperature, dim=-1),
        )

    def _of_sequences(
        self,
        emissions: Tensor,
        word_tokens: Tensor,
        targets: Tensor,
        transitions: Transitions,
        teacher: TeacherAnswers | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Hard and soft loss of a CRF's emissions [B, W, O].

        Hard: -log p(tags | text), over the number of words and not of texts, so that it and a learning rate mean what
        they do without a CRF. Soft: as of single words, of the words' marginal probabilities (posterior distillation:
        Wang et al., 2020, section 3.2): an emission alone says nothing that another split between emissions and
        transitions could not say otherwise, and the two CRFs' transitions differ.
        """
        emissions, mask = words_with_a_piece(emissions, word_tokens)
        tags = torch.zeros_like(mask, dtype=torch.int64).masked_scatter(mask, targets)
        hard = negative_log_likelihood(emissions, mask, legal_tags(tags), transitions).sum() / len(targets)
        if teacher is None or self.distillation is None or self.teacher_transitions is None:
            return hard, None
        temperature = self.distillation.temperature
        taught = torch.zeros_like(emissions).masked_scatter(mask[:, :, None], teacher.outputs)
        theirs = self.teacher_transitions.like(emissions).over(temperature)
        soft = _divergence(
            log_marginals(emissions / temperature, mask, transitions.over(temperature))[mask],
            log_marginals(taught / temperature, mask, theirs)[mask],
        )
        return hard, temperature**2 * soft
