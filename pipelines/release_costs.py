"""What so many layers of a backbone cost: parameters, operations, bytes of weights. Reckoned from its config alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from registry.domain.families import family_of
from registry.domain.records import Backbone


@dataclass(frozen=True)
class ReleaseCosts:
    """Of a release without its heads, which are small: at most h² + h + (h + 1) × outputs parameters each."""

    parameters: int
    flops: int
    """For one text of `length` tokens that is answered by all tasks; a multiplication and an addition are two."""
    length: int

    def weight_bytes(self, precision: str) -> int:
        """Args: precision: fp32, bf16 or fp16."""
        return self.parameters * (4 if precision == "fp32" else 2)


@dataclass(frozen=True)
class LayerSizes:
    """Of one transformer layer, all of a backbone being equal, and of its embeddings."""

    hidden: int
    """h."""
    intermediate: int
    """f, the width of the feed-forward part."""
    embedding_parameters: int

    @classmethod
    def of(cls, backbone: Backbone) -> Self:
        family = family_of(backbone.config, f"backbone {backbone.name}")
        config = family.own_names(backbone.config)
        hidden = backbone.hidden_size
        return cls(
            hidden,
            family.setting(config, family.intermediate_size_field),
            _embedding_parameters(family.function_config(config), hidden, family.embedding_projection is not None),
        )

    @property
    def parameters(self) -> int:
        """Four h × h projections and two h × f, with their biases, and two layer norms."""
        h, f = self.hidden, self.intermediate
        return 4 * (h * h + h) + (2 * h * f + f + h) + 4 * h

    def flops(self, length: int) -> int:
        """Of a forward pass over `length` tokens: the matrix products, those of attention among them."""
        h, f = self.hidden, self.intermediate
        return 2 * length * (4 * h * h + 2 * h * f) + 4 * length * length * h

    def costs(self, layer_count: int, length: int) -> ReleaseCosts:
        """Of a release of so many layers, trunk and branches together."""
        return ReleaseCosts(
            self.embedding_parameters + layer_count * self.parameters, layer_count * self.flops(length), length
        )


def _embedding_parameters(config: Mapping[str, Any], hidden: int, projected: bool) -> int:
    """Tables of words, positions and token types, and a layer norm; where they are narrower, what widens them."""
    width = config.get("embedding_size", hidden)
    rows = config["vocab_size"] + config["max_position_embeddings"] + config.get("type_vocab_size", 0)
    widening = width * hidden + hidden if projected and width != hidden else 0
    return int(rows * width + 2 * width + widening)
