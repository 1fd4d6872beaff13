"""The heads: what turns a branch's last hidden state into its outputs.

B = rows, T = pieces, W = words, H = hidden size.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from modeling.crf import TagTransitions, Transitions
from modeling.layer_mix import LayerMix
from registry.domain.families import FAMILIES
from registry.domain.manifests import HeadConfig, Reading
from registry.domain.task_specs import TaskType

Read = Callable[[Tensor, Tensor, Tensor], Tensor]
"""hidden [B, T, H], batch_mask [B, T] bool, word_tokens [B, W] int64 -> [B, H], or [B, W, H] at word level."""


def _first_piece(hidden: Tensor, batch_mask: Tensor, word_tokens: Tensor) -> Tensor:  # noqa: ARG001
    return hidden[:, 0]


def _mean_of_pieces(hidden: Tensor, batch_mask: Tensor, word_tokens: Tensor) -> Tensor:  # noqa: ARG001
    """Over all pieces of the row, the special ones and the second text's with them. Summed in fp32: bf16 would lose
    what a long row's later pieces add."""
    kept = hidden.float().masked_fill(~batch_mask[:, :, None], 0.0)
    return kept.sum(dim=1) / batch_mask.sum(dim=1, keepdim=True)


def _words_first_pieces(hidden: Tensor, batch_mask: Tensor, word_tokens: Tensor) -> Tensor:  # noqa: ARG001
    """Of a word without a piece, some piece's."""
    positions = word_tokens.clamp(min=0)[:, :, None].expand(-1, -1, hidden.shape[2])
    return hidden.gather(1, positions)


READS: Mapping[Reading, Read] = {"first": _first_piece, "mean": _mean_of_pieces, "words": _words_first_pieces}
"""What a head reads of a hidden state, by `HeadConfig.reading`."""


class TextHead(nn.Module):
    """One vector a text, dropout, linear: [B, outputs]."""

    def __init__(self, head: HeadConfig, hidden_size: int, dropout: float, mix: LayerMix | None) -> None:
        super().__init__()
        self.reading, self.read, self.mix = head.reading, READS[head.reading], mix
        self.first_piece_only = head.reading == "first"
        """Whether of the last hidden state nothing but the first piece is read."""
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, head.outputs)

    @property
    def transitions(self) -> None:
        """A text has one label: nothing follows it."""

    def forward(self, features: Tensor, word_tokens: Tensor) -> Tensor:  # noqa: ARG002
        """features [B, H], what `read` gave, or their mix -> [B, outputs]."""
        outputs: Tensor = self.linear(self.dropout(features))
        return outputs


class RegressionHead(TextHead):
    """A text head that answers in the data's own units: linear × target_scale + target_mean.

    Both are saved with the module (fp32 scalars). The linear part is trained on standardised targets, because from
    its initial values near 0 it would take most of the training to reach the mean of, say, house prices.
    """

    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, head: HeadConfig, hidden_size: int, dropout: float, mix: LayerMix | None) -> None:
        super().__init__(head, hidden_size, dropout, mix)
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_scale", torch.ones(()))

    def set_target_units(self, *, mean: float, scale: float) -> None:
        """Mean and standard deviation of the training targets.

        Raises:
            ValueError: they are not finite in fp32, or the scale is not above zero.
        """
        values = torch.tensor([mean, scale], dtype=torch.float32)
        if not (math.isfinite(values[0]) and math.isfinite(values[1]) and values[1] > 0):
            raise ValueError(f"targets of mean {mean} and scale {scale} cannot be standardised in fp32")
        self.target_mean.copy_(values[0])
        self.target_scale.copy_(values[1])

    def forward(self, features: Tensor, word_tokens: Tensor) -> Tensor:
        """features [B, H] -> [B, 1] fp32, in the data's units: bf16 would round 300,000 to whole thousands."""
        return super().forward(features, word_tokens).float() * self.target_scale + self.target_mean


class TokenHead(nn.Module):
    """The first piece of every word, dropout, linear: [B, W, outputs]; zeros for a word without a piece.

    With a CRF the outputs are its emissions: what they say together is for `transitions` to decide.
    """

    first_piece_only = False

    def __init__(self, head: HeadConfig, hidden_size: int, dropout: float, mix: LayerMix | None) -> None:
        super().__init__()
        self.reading, self.read, self.mix = head.reading, READS[head.reading], mix
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, head.outputs)
        self.crf = TagTransitions(head.outputs) if head.crf else None

    @property
    def transitions(self) -> Transitions | None:
        """What a CRF lets follow what; None without one."""
        return None if self.crf is None else self.crf.scores()

    def forward(self, features: Tensor, word_tokens: Tensor) -> Tensor:
        """features [B, W, H], what `read` gave, or their mix; word_tokens [B, W] int64 -> [B, W, outputs]."""
        outputs: Tensor = self.linear(self.dropout(features))
        return outputs.masked_fill((word_tokens < 0)[:, :, None], 0.0)


Head = TextHead | TokenHead

SCALARS = (TagTransitions, LayerMix)
"""The parts of a head that are trained at a rate of their own: they weigh things by single numbers near 1."""

_HEADS: dict[TaskType, type[TextHead] | type[TokenHead]] = {
    TaskType.CLASSIFICATION: TextHead,
    TaskType.REGRESSION: RegressionHead,
    TaskType.TOKEN_CLASSIFICATION: TokenHead,
}


def build_head(head: HeadConfig, config: PreTrainedConfig, *, states: int | None = None) -> Head:
    """The head that the task's type asks for, its linear layer not initialised; dropout as the backbone's own.

    Args:
        states: k + l + 1, how many hidden states there are; only a head that mixes them asks.
    Raises:
        ValueError: it mixes them, and their number is not told.
    """
    if head.gather == "mix" and states is None:
        raise ValueError("a head that mixes hidden states needs to know how many there are")
    dropout: float = getattr(config, FAMILIES[config.model_type].dropout_field)
    mix = LayerMix(states) if head.gather == "mix" and states is not None else None
    return _HEADS[head.type](head, config.hidden_size, dropout, mix)


def initialise_head(head: Head, *, deviation: float, seed: int) -> None:
    """Weights from a normal distribution, bias zero, from the seed alone: the global generator is left as it is.

    A CRF's scores stay at zero, where it says what its emissions say, less what BIO forbids; a
    mix begins as `LayerMix` says.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.linear.weight.normal_(0.0, deviation, generator=generator)
        head.linear.bias.zero_()
