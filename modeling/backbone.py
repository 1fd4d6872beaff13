"""The backbone cut at a depth: embeddings and bottom layers, frozen, from content-addressed blobs.

The parts are transformers' own classes; which parts, a family's entry in `registry.domain.families` says.
B = rows, T = pieces, H = hidden size.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask

from modeling.text import Batch, TextEncoder
from modeling.weights import EXACT_IN_FP32, fill
from registry.artifacts.store import ArtifactStore
from registry.domain.families import FAMILIES, BackboneFamily, family_of
from registry.domain.manifests import TrunkManifest
from registry.domain.records import NewBackbone
from registry.errors import ArtifactError, InvalidInput

Attention = Literal["sdpa", "eager"]


def attention_mask(config: PreTrainedConfig, hidden: Tensor, mask: Tensor) -> Tensor:
    """transformers' own 4-D mask for the attention that `config` names: boolean for SDPA, additive for eager.

    Args:
        hidden: [B, T, H]; gives the mask's dtype and device.
        mask: [B, T] bool, False on padding.

    The mask is made even when nothing is padded: whether a row's batch mates have padding must not choose the kernel
    that the row is computed with, and looking costs a synchronisation on a GPU.
    """
    return cast(
        Tensor,
        create_bidirectional_mask(
            config=config, inputs_embeds=hidden, attention_mask=mask, allow_is_bidirectional_skip=False
        ),
    )


def meta_model(config: Mapping[str, Any], *, layers: int, attention: Attention) -> PreTrainedModel:
    """transformers' model of this many layers, fp32; its weights take no memory and no random number.

    Raises:
        InvalidInput: transformers can build no model from the config.
    """
    family = family_of(config, "backbone config")
    try:
        model_config = AutoConfig.for_model(
            **{**family.own_names(config), family.layer_count_field: layers, **family.built_with}
        )
        with torch.device("meta"):
            build: Callable[..., PreTrainedModel] = AutoModel.from_config
            return build(model_config, attn_implementation=attention, dtype=torch.float32)
    except Exception as error:  # a config's values come out as exceptions of every class
        raise InvalidInput("backbone config", [f"transformers cannot build it: {error}"]) from error


def layers_of(model: PreTrainedModel, config: Mapping[str, Any]) -> nn.ModuleList:
    return cast(nn.ModuleList, model.get_submodule(family_of(config, "backbone config").layers_attribute))


def embeddings_of(model: PreTrainedModel, config: Mapping[str, Any]) -> nn.Module:
    """The embeddings; a projection of their output is made a part of them, as it is in their blob."""
    family = family_of(config, "backbone config")
    embeddings = model.get_submodule(family.embeddings_prefix.rstrip("."))
    if projection := _projection_in(model, family):
        embeddings.add_module(str(family.embedding_projection), projection)
    return embeddings


def _projection_in(module: nn.Module, family: BackboneFamily) -> nn.Module | None:
    """The projection to the layers' width; None in a family or a model without one."""
    return getattr(module, family.embedding_projection, None) if family.embedding_projection else None


def compute_buffers(model: PreTrainedModel, part: nn.Module) -> None:
    """Gives the part's non-persistent buffers (such as position ids) their values.

    They are in no file: transformers computes them where it initialises weights, and leaves alone what it finds
    marked as initialised. So the part's weights must be loaded before.
    """
    for parameter in part.parameters():
        parameter._is_hf_initialized = True  # type: ignore[attr-defined]
    for module in part.modules():
        for name in module._non_persistent_buffers_set:
            setattr(module, name, torch.empty_like(module.get_buffer(name), device="cpu"))
        if module._non_persistent_buffers_set:
            initialise: Callable[[nn.Module], None] = model._init_weights
            initialise(module)


def load_text_encoder(pinned: NewBackbone | TrunkManifest, store: ArtifactStore) -> TextEncoder:
    """The text encoder of a backbone, or of the trunk that a release took from it.

    Raises:
        ArtifactMissing, ArtifactDamaged, InvalidInput: the tokenizer cannot be read.
    """
    family = family_of(pinned.config, "backbone config")
    return TextEncoder(
        store.read(pinned.tokenizer),
        max_length=pinned.max_length,
        pad_id=family.setting(pinned.config, "pad_token_id"),
        type_count=family.type_count(pinned.config),
    )


def fill_part(part: nn.Module, blob: str, store: ArtifactStore, *, subject: str) -> None:
    """Fills a part of a backbone from its blob; an error names the part and how to mend the blob.

    Raises:
        InvalidWeights, ArtifactMissing, ArtifactDamaged: the blob cannot be used.
    """
    try:
        path = store.fetch(blob)
    except ArtifactError as error:
        raise type(error)(f"{subject}: {error}; `trunkline backbone pin` of the same files stores it again") from error
    fill(part, path, subject=subject, dtypes=EXACT_IN_FP32)


class Trunk(nn.Module):
    """Embeddings and the bottom layers, frozen: always in eval mode, never with a gradient.

    Dropout in a frozen layer would make the cached and the served hidden state different ones.
    """

    def __init__(self, config: PreTrainedConfig, embeddings: nn.Module, layers: nn.ModuleList) -> None:
        super().__init__()
        self.config = config
        self.family = FAMILIES[config.model_type]
        self.embeddings = embeddings
        self.layers = layers
        self.requires_grad_(False)
        self.eval()

    @property
    def depth(self) -> int:
        return len(self.layers)

    def up_to(self, depth: int) -> "Trunk":
        """The same embeddings and the lowest layers of this trunk: nothing is copied."""
        return Trunk(self.config, self.embeddings, self.layers[:depth])

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stays in eval mode, whatever the module around it is told."""
        return super().train(False)

    @torch.no_grad()
    def hidden_states(self, batch: Batch, depth: int) -> Iterator[Tensor]:
        """The hidden states [B, T, H] after layers 0 (the embeddings) to `depth`, each computed when asked for."""
        if not 0 <= depth <= self.depth:
            raise ValueError(f"depth {depth}: this trunk has layers 0 to {self.depth}")
        hidden = self.embedded(batch.input_ids, batch.type_ids)
        yield hidden
        mask = attention_mask(self.config, hidden, batch.mask)
        for layer in self.layers[:depth]:
            hidden = layer(hidden, mask)
            yield hidden

    def embedded(self, input_ids: Tensor, type_ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """The hidden state [B, T, H] that the first layer reads, of pieces [B, T] int64.

        Args:
            positions: [B, T] int64, from `first_position` on; None where each row begins a text and may end in padding.
        """
        types = {} if self.family.type_count_field is None else {"token_type_ids": type_ids}
        hidden: Tensor = self.embeddings(input_ids=input_ids, position_ids=positions, **types)
        projection = _projection_in(self.embeddings, self.family)
        return hidden if projection is None else projection(hidden)

    @property
    def pad_id(self) -> int:
        return cast(int, self.config.pad_token_id)

    @property
    def first_position(self) -> int:
        """Of a text's first piece."""
        return self.pad_id + 1 if self.family.positions_follow_padding else 0

    def forward(self, batch: Batch, depths: Collection[int]) -> dict[int, Tensor]:
        """The hidden state [B, T, H] after each asked layer (0: the embeddings); nothing beyond the deepest is run.

        Raises:
            ValueError: a depth is outside the trunk.
        """
        if outside := [depth for depth in depths if not 0 <= depth <= self.depth]:
            raise ValueError(f"depths {outside}: this trunk has layers 0 to {self.depth}")
        if not depths:
            return {}
        states = enumerate(self.hidden_states(batch, max(depths)))
        return {depth: hidden for depth, hidden in states if depth in depths}


def load_trunk(
    *,
    config: Mapping[str, Any],
    embeddings: str,
    layers: Sequence[str],
    store: ArtifactStore,
    attention: Attention = "sdpa",
) -> Trunk:
    """Builds the trunk from its blobs, in fp32 whatever dtype they hold: the cast is exact.

    Args:
        config: the backbone's whole config.json.
        embeddings: blob of the embeddings' tensors.
        layers: blobs of layers 1, 2, …: as many as the trunk is deep.

    Raises:
        InvalidWeights: a blob's tensors are not exactly those of its part; names blob and tensor.
        ArtifactMissing, ArtifactDamaged: the store does not hold a whole blob.
        InvalidInput: the config is not one of a backbone.
    """
    model = meta_model(config, layers=len(layers), attention=attention)
    embedding_part, layer_parts = embeddings_of(model, config), layers_of(model, config)
    fill_part(embedding_part, embeddings, store, subject="the backbone's embeddings")
    for number, (layer, blob) in enumerate(zip(layer_parts, layers, strict=True), start=1):
        fill_part(layer, blob, store, subject=f"the backbone's layer {number}")
    for part in (embedding_part, layer_parts):
        compute_buffers(model, part)
    return Trunk(model.config, embedding_part, layer_parts)


def load_layer(config: Mapping[str, Any], number: int, blob: str, store: ArtifactStore) -> nn.Module:
    """One layer of a backbone, fp32, in eval mode and without gradients.

    Args:
        number: from 1, for the error.

    Raises:
        InvalidWeights, ArtifactMissing, ArtifactDamaged, InvalidInput: as `load_trunk`.
    """
    model = meta_model(config, layers=1, attention="sdpa")
    (layer,) = layers_of(model, config)
    fill_part(layer, blob, store, subject=f"the backbone's layer {number}")
    compute_buffers(model, layer)
    return layer.requires_grad_(False).eval()
