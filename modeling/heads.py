"""The heads: what turns a branch's last hidden state into its outputs.

B = rows, T = pieces, W = words, H = hidden size.
"""

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from registry.domain.families import FAMILIES
from registry.domain.manifests import HeadConfig
from registry.domain.task_specs import TaskType


class TextHead(nn.Module):
    """First piece, dropout, linear: [B, outputs]."""

    first_piece_only = True
    """Whether of the last hidden state nothing but the first piece is read."""

    def __init__(self, hidden_size: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, outputs)

    def read(self, hidden: Tensor, batch_mask: Tensor, word_tokens: Tensor) -> Tensor:  # noqa: ARG002
        """hidden [B, T, H] -> [B, H]: what of it the head answers from."""
        return hidden[:, 0]

    def forward(self, features: Tensor, word_tokens: Tensor) -> Tensor:  # noqa: ARG002
        """features [B, H] -> [B, outputs]."""
        outputs: Tensor = self.linear(self.dropout(features))
        return outputs


class RegressionHead(TextHead):
    """A text head that answers in the data's own units: linear × target_scale + target_mean.

    Both are saved with the module (fp32 scalars). The linear part is trained on standardised targets, because from
    its initial values near 0 it would take most of the training to reach the mean of, say, house prices.
    """

    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, hidden_size: int, outputs: int, dropout: float) -> None:
        super().__init__(hidden_size, outputs, dropout)
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
        """features [B, H] -> [B, 1], in the data's units."""
        return super().forward(features, word_tokens) * self.target_scale + self.target_mean


class TokenHead(nn.Module):
    """The first piece of every word, dropout, linear: [B, W, outputs]; zeros for a word without a piece."""

    first_piece_only = False

    def __init__(self, hidden_size: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, outputs)

    def read(self, hidden: Tensor, batch_mask: Tensor, word_tokens: Tensor) -> Tensor:  # noqa: ARG002
        """hidden [B, T, H], word_tokens [B, W] int64 -> [B, W, H]; of a word without a piece, some piece's."""
        positions = word_tokens.clamp(min=0)[:, :, None].expand(-1, -1, hidden.shape[2])
        return hidden.gather(1, positions)

    def forward(self, features: Tensor, word_tokens: Tensor) -> Tensor:
        """features [B, W, H], word_tokens [B, W] int64 -> [B, W, outputs]."""
        outputs: Tensor = self.linear(self.dropout(features))
        return outputs.masked_fill((word_tokens < 0)[:, :, None], 0.0)


_HEADS: dict[TaskType, type[TextHead] | type[TokenHead]] = {
    TaskType.CLASSIFICATION: TextHead,
    TaskType.REGRESSION: RegressionHead,
    TaskType.TOKEN_CLASSIFICATION: TokenHead,
}


def build_head(head: HeadConfig, config: PreTrainedConfig) -> TextHead | TokenHead:
    """The head that the task's type asks for, not initialised; dropout as the backbone's own."""
    dropout: float = getattr(config, FAMILIES[config.model_type].dropout_field)
    return _HEADS[head.type](config.hidden_size, head.outputs, dropout)


def initialise_head(head: TextHead | TokenHead, *, deviation: float, seed: int) -> None:
    """Weights from a normal distribution, bias zero, from the seed alone: the global generator is left as it is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.linear.weight.normal_(0.0, deviation, generator=generator)
        head.linear.bias.zero_()
