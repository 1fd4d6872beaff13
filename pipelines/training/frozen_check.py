"""The proof that training left the trunk alone: its digest, computed again from the live parameters."""

import torch
from torch import nn

from modeling.backbone import Trunk
from modeling.weights import TORCH_DTYPES
from registry.artifacts.safetensors_file import SafetensorsFile
from registry.artifacts.store import ArtifactStore
from registry.domain.digests import TensorBytes, prefix_digests, tensors_digest
from registry.domain.records import Backbone
from registry.errors import ArtifactDamaged


def check_frozen(trunk: Trunk, backbone: Backbone, store: ArtifactStore) -> None:
    """Recomputes P(trunk depth) from the parameters in memory, cast back to the dtype they are stored in.

    Raises:
        ArtifactDamaged: the digest is not the pinned one.
    """
    root = {**backbone.prefix_root, "embeddings": _live_digest(trunk.embeddings, backbone.embeddings, store)}
    layers = [_live_digest(layer, blob, store) for layer, blob in zip(trunk.layers, backbone.layers, strict=False)]
    if prefix_digests(root, layers)[-1] != backbone.prefix_digests[trunk.depth]:
        raise ArtifactDamaged(
            f"backbone {backbone.name}: the frozen layers changed while a module was trained on them; nothing was "
            "registered. Please report this with the recipe"
        )


def _live_digest(part: nn.Module, blob: str, store: ArtifactStore) -> str:
    live = part.state_dict()
    with SafetensorsFile(store.fetch(blob)) as stored:
        return tensors_digest(
            TensorBytes(
                name,
                entry.dtype,
                entry.shape,
                live[name].cpu().to(TORCH_DTYPES[entry.dtype]).reshape(-1).view(torch.uint8).numpy().tobytes(),
            )
            for name, entry in stored.entries.items()
        )
