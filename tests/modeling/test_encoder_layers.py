"""The layers as written out here against transformers' own layers of the same weights."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from modeling import encoder_layers
from modeling.backbone import attention_mask, layers_of
from modeling.dropout_masks import dropout_mask
from modeling.encoder_layers import layer_states, step_layer_passes
from registry.domain.families import FAMILIES
from tests.conftest import family_config, randomise

every_family = pytest.mark.parametrize("model_type", list(FAMILIES))
both_attentions = pytest.mark.parametrize("attention", ["sdpa", "eager"])
one_piece_or_all = pytest.mark.parametrize("first_piece_only", [False, True])

CPU = torch.device("cpu")
LENGTHS = (7, 5, 1)
ATTENTION_RATE, HIDDEN_RATE = 0.3, 0.2

Layers = tuple[nn.ModuleList, PreTrainedConfig]


def random_layers(model_type: str, attention: str = "sdpa", **changes: Any) -> Layers:
    """Two layers in double precision, where an error of the function cannot pass for rounding."""
    rate = "attention_dropout" if model_type == "distilbert" else "attention_probs_dropout_prob"
    dropout = {rate: ATTENTION_RATE, "hidden_dropout_prob": HIDDEN_RATE}
    config = family_config(model_type, **dropout, **changes)
    model = AutoModel.from_config(AutoConfig.for_model(**config), attn_implementation=attention).double().eval()
    randomise(model, seed=3, dtype=torch.float64)
    return layers_of(model, config)[:2], model.config


def random_inputs() -> tuple[Tensor, Tensor]:
    hidden = torch.randn(3, 7, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return hidden, torch.arange(7) < torch.tensor(LENGTHS)[:, None]


def transformers_states(layers: nn.ModuleList, config: PreTrainedConfig, hidden: Tensor, mask: Tensor) -> list[Tensor]:
    states, whole = [], attention_mask(config, hidden, mask)
    for layer in layers:
        hidden = layer(hidden, whole)
        states.append(hidden)
    return states


def gradients_of(layers: nn.ModuleList, states: list[Tensor], mask: Tensor, hidden: Tensor) -> dict[str, Tensor]:
    """Of a weighted sum over the first state's pieces and the last state's first piece."""
    weights = torch.linspace(-1, 1, 24, dtype=torch.float64)
    loss = (states[-1][:, 0] * weights).sum() + (states[0] * mask[:, :, None] * weights.square()).sum()
    parameters = dict(layers.named_parameters())
    found = torch.autograd.grad(loss, [hidden, *parameters.values()], materialize_grads=True)
    return dict(zip(["hidden", *parameters], found, strict=True))


@both_attentions
@one_piece_or_all
@every_family
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_states_and_gradients_are_those_of_transformers_layers(
    model_type: str, first_piece_only: bool, attention: str, activation: str
) -> None:
    layers, config = random_layers(model_type, attention, hidden_act=activation)
    hidden, mask = random_inputs()
    hidden.requires_grad_()
    expected = transformers_states(layers, config, hidden, mask)
    found = layer_states(layers, config, hidden, mask, first_piece_only=first_piece_only)
    assert found[-1].shape == (3, 1 if first_piece_only else 7, 24)
    for ours, theirs in zip(found, expected, strict=True):
        asked = mask[:, : ours.shape[1]]
        torch.testing.assert_close(ours[asked], theirs[:, : ours.shape[1]][asked], rtol=0, atol=1e-10)
    theirs = gradients_of(layers, expected, mask, hidden)
    for name, ours in gradients_of(layers, found, mask, hidden).items():
        torch.testing.assert_close(ours, theirs[name], rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@both_attentions
@every_family
def test_without_gradients_the_first_piece_is_that_of_the_whole_layer(model_type: str, attention: str) -> None:
    layers, config = random_layers(model_type, attention)
    hidden, mask = random_inputs()
    with torch.no_grad():
        expected = transformers_states(layers, config, hidden, mask)
        found = layer_states(layers, config, hidden, mask, first_piece_only=True)
        whole = layer_states(layers, config, hidden, mask, first_piece_only=False)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1][:, :1], rtol=0, atol=1e-10)
    assert torch.equal(whole[1], expected[1])


@pytest.mark.parametrize("trained", [False, True])
def test_a_batch_of_no_rows_and_a_branch_of_no_layers_pass_through(trained: bool) -> None:
    layers, config = random_layers("bert")
    hidden, mask = random_inputs()
    with torch.set_grad_enabled(trained):
        (empty,) = layer_states(layers, config, hidden[:0], mask[:0], first_piece_only=True)
        (same,) = layer_states([], config, hidden, mask, first_piece_only=False)
    assert empty.shape == (0, 7, 24)
    assert same is hidden


@one_piece_or_all
def test_a_row_of_padding_alone_gives_numbers_and_gradients(first_piece_only: bool) -> None:
    layers, config = random_layers("bert")
    hidden, mask = random_inputs()
    mask[2] = False
    states = layer_states(layers, config, hidden, mask, first_piece_only=first_piece_only)
    states[-1].sum().backward()
    assert all(state.isfinite().all() for state in states)
    gradients = {name: parameter.grad for name, parameter in layers.named_parameters() if parameter.grad is not None}
    assert len(gradients) == len(list(layers.parameters())) - first_piece_only  # of the last key's bias there is none
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@every_family
def test_dropout_is_applied_where_transformers_applies_it(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layers, config = random_layers(model_type, "eager")
    layers.train()
    ours: list[tuple[int, float]] = []
    theirs: list[tuple[int, float]] = []
    real = nn.functional.dropout

    def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        theirs.append((x.numel(), p))
        return real(x, p, training, inplace)

    def mask_of(shape: tuple[int, ...], rate: float, **kind: Any) -> Tensor:
        ours.append((torch.Size(shape).numel(), rate))
        return dropout_mask(shape, rate, **kind)

    monkeypatch.setattr(nn.functional, "dropout", dropout)
    monkeypatch.setattr(encoder_layers, "dropout_mask", mask_of)
    hidden, mask = random_inputs()
    transformers_states(layers, config, hidden, mask)
    layer_states(layers, config, hidden, mask, first_piece_only=False)
    assert ours == theirs
    assert {rate for _, rate in ours} == {ATTENTION_RATE, HIDDEN_RATE}


def test_what_the_first_piece_sees_is_dropped_as_in_the_whole_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, config = random_layers("bert")
    last, (hidden, mask) = layers[1:].train(), random_inputs()
    hidden.requires_grad_()
    rows, length, heads = 3, 7, config.num_attention_heads
    with torch.random.fork_rng():
        torch.manual_seed(0)
        of_weights = dropout_mask((rows, heads, length, length), ATTENTION_RATE, dtype=torch.float64, device=CPU)
        of_states = dropout_mask((rows, length, 24), HIDDEN_RATE, dtype=torch.float64, device=CPU)

    def mask_of(shape: tuple[int, ...], rate: float, **kind: Any) -> Tensor:
        """Of a layer for the first piece what the whole one drops there."""
        whole = of_weights if rate == ATTENTION_RATE else of_states
        own = whole if torch.Size(shape).numel() == whole.numel() else whole[..., :1, :]
        return own.reshape(shape)

    monkeypatch.setattr(encoder_layers, "dropout_mask", mask_of)
    found = [layer_states(last, config, hidden, mask, first_piece_only=only)[-1][:, 0] for only in (True, False)]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)
    parameters = dict(last.named_parameters()) | {"hidden": hidden}
    weights = torch.linspace(-1, 1, 24, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad((state * weights).sum(), list(parameters.values()), materialize_grads=True)
        for state in found
    )
    for name, mine, other in zip(parameters, ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_the_generators_seed_decides_every_mask_and_eval_mode_has_none() -> None:
    layers, config = random_layers("bert")
    hidden, mask = random_inputs()

    def last_state(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return layer_states(layers, config, hidden, mask, first_piece_only=False)[-1]

    with torch.random.fork_rng():
        assert torch.equal(last_state(1), last_state(2))
        layers.train()
        assert torch.equal(last_state(1), last_state(1))
        assert not torch.equal(last_state(1), last_state(2))


def test_the_same_layer_twice_drops_different_entries() -> None:
    layers, config = random_layers("bert")
    twin = nn.ModuleList([layers[0], copy.deepcopy(layers[0])]).train()
    hidden, mask = random_inputs()
    first = layer_states(twin[:1], config, hidden, mask, first_piece_only=False)[-1]
    second = layer_states(twin[1:], config, hidden, mask, first_piece_only=False)[-1]
    assert not torch.equal(first, second)


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_drop_at_their_rate_and_keep_the_mean(rate: float, dtype: torch.dtype) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        masks = torch.stack([dropout_mask((64, 50), rate, dtype=dtype, device=CPU) for _ in range(200)]).double()
    # 640,000 entries; were they independent, the share's standard deviation would be at most 0.0006.
    assert masks.eq(0).double().mean().item() == pytest.approx(rate, abs=0.004)
    assert masks.mean().item() == pytest.approx(1.0, abs=0.01)
    assert masks.unique().tolist() == [0.0, torch.tensor(1 / (1 - rate), dtype=dtype).item()]
    # Rows, columns and masks are independent of each other: products of neighbours have the product's mean.
    dropped = masks.eq(0).double()
    for one, other in (
        (dropped[1:], dropped[:-1]),
        (dropped[:, 1:], dropped[:, :-1]),
        (dropped[:, :, 1:], dropped[:, :, :-1]),
    ):
        assert (one * other).mean().item() == pytest.approx(rate**2, abs=0.005)


def test_a_mask_longer_than_a_window_is_made_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeling.dropout_masks._LONGEST", 1000)
    whole = dropout_mask((7, 500), 0.3, dtype=torch.float32, device=CPU)
    assert whole.shape == (7, 500)
    assert not torch.equal(whole[0:2], whole[2:4])
    assert whole.eq(0).float().mean().item() == pytest.approx(0.3, abs=0.05)


def test_the_windows_of_one_long_mask_drop_independently_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeling.dropout_masks._LONGEST", 1000)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = dropout_mask((400, 1000), 0.3, dtype=torch.float32, device=CPU).eq(0).double()
    # 400,000 entries; were they independent, the product's standard deviation would be 0.0005.
    for distance in (1, 7, 200):
        assert (dropped[distance:] * dropped[:-distance]).mean().item() == pytest.approx(0.3**2, abs=0.004)
    assert dropped.var(dim=0, correction=0).mean().item() == pytest.approx(0.3 * 0.7, abs=0.004)


def test_an_empty_mask_is_a_mask() -> None:
    assert dropout_mask((0, 3), 0.1, dtype=torch.float32, device=CPU).shape == (0, 3)


DEVICES = [
    CPU,
    pytest.param(
        torch.device("cuda"), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    ),
]


class _Dtypes(TorchDispatchMode):
    """Notes the operations on floats of several dtypes at once, and the dtypes of the matrix products.

    A CPU lets some of them pass that CUDA refuses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mixed: list[str] = []
        self.products: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor) and one.is_floating_point()]
        dtypes = {one.dtype for one in tensors if one.dim()}
        if len(dtypes) > 1 and name not in ("_to_copy", "copy_"):
            self.mixed.append(f"{name}: {dtypes}")
        if name in ("addmm", "mm", "bmm", "baddbmm"):
            self.products |= dtypes
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("device", DEVICES)
@every_family
def test_products_are_in_autocasts_dtype_and_its_gradients_are_those_of_fp32(
    model_type: str, device: torch.device
) -> None:
    layers, config = random_layers(model_type)
    layers.float().to(device)
    hidden, mask = random_inputs()
    hidden, mask = hidden.float().to(device), mask.to(device)
    weights = torch.linspace(-1, 1, 24, device=device)

    def gradients() -> dict[str, Tensor]:
        last = layer_states(layers, config, hidden, mask, first_piece_only=True)[-1]
        loss = (last.float() * weights).sum()
        parameters = dict(layers.named_parameters())
        return dict(
            zip(parameters, torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True), strict=True)
        )

    plain = gradients()
    with _Dtypes() as seen, torch.autocast(device.type, dtype=torch.bfloat16):
        cast = gradients()
    assert seen.products == {torch.bfloat16}
    assert not seen.mixed
    for name, gradient in plain.items():
        assert cast[name].dtype == torch.float32
        # A key's bias moves all scores of a query alike: its gradient is 0 but for rounding.
        scale = max(gradient.norm().item(), 0.5)
        assert (cast[name] - gradient).norm().item() < 0.1 * scale, name


def test_layer_passes_of_a_step_count_the_last_layer_as_what_is_computed_of_it() -> None:
    assert step_layer_passes(4, first_piece_only=False) == 12.0
    assert step_layer_passes(4, first_piece_only=True) == pytest.approx(9.25)
    assert step_layer_passes(1, first_piece_only=True) == pytest.approx(0.25)
    assert step_layer_passes(0, first_piece_only=True) == 0.0
