"""What layers cost, held to the parameters and the operations of the real modules."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling.backbone import load_trunk
from modeling.text import Batch
from pipelines.release_costs import LayerSizes
from registry.domain.families import FAMILIES
from tests.conftest import family_config, pin


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_parameters_and_operations_are_those_of_the_trunk(model_type: str, tmp_path: Path) -> None:
    pinned = pin(tmp_path / "pinned", family_config(model_type))
    backbone = pinned.backbone
    sizes = LayerSizes.of(backbone)
    trunk = load_trunk(
        config=backbone.config,
        embeddings=backbone.embeddings,
        layers=backbone.layers,
        store=pinned.store,
        attention="eager",
    )
    costs = sizes.costs(backbone.layer_count, length=12)
    assert costs.parameters == sum(parameter.numel() for parameter in trunk.parameters())

    batch = Batch(
        input_ids=torch.full((1, 12), 5),
        type_ids=torch.zeros(1, 12, dtype=torch.int64),
        mask=torch.ones(1, 12, dtype=torch.bool),
        word_tokens=torch.zeros(1, 0, dtype=torch.int64),
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        trunk(batch, [backbone.layer_count])
    widening = 2 * 12 * backbone.config["embedding_size"] * backbone.hidden_size if model_type == "electra" else 0
    assert costs.flops == counter.get_total_flops() - widening
    assert (costs.weight_bytes("fp32"), costs.weight_bytes("bf16")) == (4 * costs.parameters, 2 * costs.parameters)


def test_the_papers_encoder_has_the_size_it_is_known_for() -> None:
    sizes = LayerSizes(hidden=768, intermediate=3072, embedding_parameters=23_837_184)
    # BERT-base without its pooler (768² + 768), as Hugging Face counts it: 109,482,240 - 590,592.
    assert sizes.costs(12, 128).parameters == 108_891_648
