import pytest
import torch

from modeling import precision
from modeling.precision import best_precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def asked_anew():
    best_precision.cache_clear()
    yield
    best_precision.cache_clear()


@pytest.mark.parametrize(
    ("capabilities", "times_faster", "best"),
    [
        ({"avx512_bf16": True}, 2.0, "bf16"),
        ({"amx_bf16": True}, 8.0, "bf16"),
        ({"avx512_bf16": True}, 0.55, "fp32"),
        ({"avx512_bf16": True}, 1.1, "fp32"),
        ({}, 2.0, "fp32"),
    ],
)
def test_bf16_is_best_where_the_processor_knows_it_and_is_faster_in_it(monkeypatch, capabilities, times_faster, best):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(precision, "_times_faster", lambda _: times_faster)
    assert best_precision(CPU) == best


def test_it_is_measured_once(monkeypatch):
    measured = []
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(precision, "_times_faster", lambda dtype: measured.append(dtype) or 2.0)
    assert [best_precision(CPU), best_precision(CPU)] == ["bf16", "bf16"]
    assert measured == [torch.bfloat16]


def test_a_product_of_eight_times_the_bits_is_not_faster():
    assert precision._times_faster(torch.float64) < 1
