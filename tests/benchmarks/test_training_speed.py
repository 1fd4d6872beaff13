"""The floor of a training step counts what the step multiplies, no more and no less."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from training_speed import multiplying, step_flops, step_products
from transformers import AutoConfig, AutoModel

from modeling.backbone import layers_of
from modeling.encoder_layers import layer_states
from tests.conftest import family_config

ROWS, PIECES = 3, 7


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("first_piece_only", [True, False])
def test_the_operations_of_a_step_are_those_that_torch_counts(layers: int, first_piece_only: bool) -> None:
    config = family_config("bert", num_hidden_layers=3)
    model = AutoModel.from_config(AutoConfig.for_model(**config))
    own = layers_of(model, config)[:layers]
    hidden, mask = torch.randn(ROWS, PIECES, config["hidden_size"]), torch.ones(ROWS, PIECES, dtype=torch.bool)

    def step() -> Tensor:
        return layer_states(own, model.config, hidden, mask, first_piece_only=first_piece_only)[-1].sum()

    with FlopCounterMode(display=False) as counted:
        step().backward()
    expected = step_flops(
        [PIECES] * ROWS,
        layers,
        width=config["hidden_size"],
        inner=config["intermediate_size"],
        heads=config["num_attention_heads"],
        first_piece_only=first_piece_only,
    )
    assert counted.get_total_flops() == expected


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_what_multiplies_a_step_s_products_alone_does_all_of_them_and_no_more(layers: int) -> None:
    sizes = {"width": 32, "inner": 128, "heads": 4}
    products = step_products(ROWS, PIECES, layers, **sizes)
    expected = step_flops([PIECES] * ROWS, layers, **sizes, first_piece_only=True)
    with FlopCounterMode(display=False) as counted:
        multiplying(products, torch.float32)()
    assert sum(one.flops for one in products) == expected
    assert counted.get_total_flops() == expected
