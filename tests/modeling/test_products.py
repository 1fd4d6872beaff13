"""Every way to multiply gives the same, and the fastest one is taken."""

import math
import threading

import pytest
import torch
from threadpoolctl import threadpool_info
from torch import nn
from torch.nn import functional
from transformers.activations import GELUActivation

from modeling import products
from modeling.products import WAYS, NumpyLinear, ReorderedLinear, TorchLinear, best_linear, use_threads

CPU = torch.device("cpu")


@pytest.fixture
def chosen_anew():
    best_linear.cache_clear()
    yield
    best_linear.cache_clear()


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("activation", [None, GELUActivation(), nn.ReLU()])
@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("way", WAYS)
def test_a_product_is_that_of_torchs_linear_layer(way, rows, activation, with_residual):
    torch.manual_seed(rows)
    weight, bias, x = torch.randn(24, 16), torch.randn(24), torch.randn(rows, 16)
    residual = torch.randn(rows, 24) if with_residual else None
    given = [one.clone() for one in (x, weight, bias)] + ([residual.clone()] if with_residual else [])
    expected = functional.linear(x, weight, bias)
    expected = expected if activation is None else activation(expected)
    expected = expected if residual is None else expected + residual
    linear = way(weight, bias, dtype=torch.float32, device=CPU, activation=activation)
    with torch.inference_mode():
        for _ in range(2):  # the second time too: nothing that was given has changed
            torch.testing.assert_close(linear(x, residual), expected, atol=2e-6, rtol=2e-6)
    for before, after in zip(given, [x, weight, bias, residual], strict=False):
        assert torch.equal(before, after)


@pytest.mark.parametrize("way", WAYS)
def test_rows_that_lie_apart_are_multiplied_too(way):
    weight, bias, wide = torch.randn(24, 16), torch.randn(24), torch.randn(5, 48)
    x = wide[:, 16:32]
    linear = way(weight, bias, dtype=torch.float32, device=CPU)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x), functional.linear(x, weight, bias), atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ((1.0, 2.0, 2.0), ReorderedLinear),
        ((1.0, 0.97, 0.98), ReorderedLinear),  # not worth it
        ((1.0, 0.8, 0.85), TorchLinear),
        ((1.0, 0.9, 0.85), NumpyLinear),
    ],
)
def test_the_fastest_way_is_taken(monkeypatch, chosen_anew, seconds, chosen):
    monkeypatch.setattr(products, "_seconds", lambda ways: dict(zip(WAYS, seconds, strict=True)))
    assert best_linear(torch.float32, CPU) is chosen


def test_nothing_is_timed_where_only_one_way_multiplies_in_that_precision(monkeypatch, chosen_anew):
    monkeypatch.setattr(products, "_seconds", lambda ways: pytest.fail("timed"))
    assert best_linear(torch.bfloat16, CPU) in {ReorderedLinear, TorchLinear}
    assert best_linear(torch.float32, torch.device("cuda")) is TorchLinear


def test_all_ways_are_timed():
    seconds = products._seconds(WAYS)
    assert set(seconds) == set(WAYS)
    assert all(one > 0 and math.isfinite(one) for one in seconds.values())


def test_a_lane_sets_its_threads_whatever_another_thread_has_set():
    found = []

    def lane():
        torch.set_num_threads(2)
        use_threads(1)
        of_numpy = {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}
        found.append((torch.get_num_threads(), of_numpy))

    try:
        use_threads(2)
        thread = threading.Thread(target=lane)
        thread.start()
        thread.join()
        assert found == [(1, {1})]
    finally:
        use_threads(1)  # as all tests
