"""Norms equal their formula, with the roundings of transformers' own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from lorax_spec.kernels import norm as reference
from lorax_spec.kernels.triton.norm import add_rms_norm, rms_norm

EPSILON = 1e-5
DTYPES = st.sampled_from([torch.float32, torch.float16])


def draw_rows(seed: int, *shape: int) -> torch.Tensor:
    """Rows of sizes that show the epsilon, and of ordinary ones."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(*shape, generator=generator)
    return rows * torch.logspace(-3, 1, shape[-2])[:, None]


def exact(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """float64."""
    wide = x.double()
    return weight.double() * wide * (wide.square().mean(-1, keepdim=True) + EPSILON).rsqrt()


def within_roundings(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Two roundings to the dtype, half a unit each, and in float32 those of the sum."""
    bound = torch.finfo(actual.dtype).eps * (1.1 if actual.dtype != torch.float32 else 4)
    smallest = torch.finfo(actual.dtype).smallest_normal
    return torch.allclose(actual.double(), expected, rtol=bound, atol=smallest)


@settings(max_examples=20)
@given(st.integers(0, 99), st.integers(1, 5), st.integers(1, 300), DTYPES)
def test_rows_of_any_size(
    device: torch.device, seed: int, rows: int, size: int, dtype: torch.dtype
) -> None:
    x, weight = (draw_rows(seed + i, rows, size).to(device, dtype) for i in range(2))
    normed = rms_norm(x, weight[0], EPSILON)
    assert normed.dtype == dtype and within_roundings(normed, exact(x, weight[0]))


@settings(max_examples=15)
@given(st.integers(0, 99), st.integers(1, 5), st.integers(1, 300), DTYPES)
def test_sums_of_any_size(
    device: torch.device, seed: int, rows: int, size: int, dtype: torch.dtype
) -> None:
    x, residual, weight = (draw_rows(seed + i, rows, size).to(device, dtype) for i in range(3))
    kept = x.clone(), residual.clone()
    total, normed = add_rms_norm(x, residual, weight[0], EPSILON)
    assert torch.equal(total, residual + x)
    assert within_roundings(normed, exact(total, weight[0]))
    assert torch.equal(x, kept[0]) and torch.equal(residual, kept[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_references_are_what_transformers_does(dtype: torch.dtype) -> None:
    module = LlamaRMSNorm(96, eps=EPSILON).to(dtype)
    torch.nn.init.normal_(module.weight)
    x = draw_rows(0, 7, 96).to(dtype)
    assert torch.equal(reference.rms_norm(x, module.weight, EPSILON), module(x))
    total, normed = reference.add_rms_norm(x, x.flip(0), module.weight, EPSILON)
    assert torch.equal(normed, module(x + x.flip(0))) and torch.equal(total, x.flip(0) + x)


def test_float16_has_nearly_all_bits_of_transformers(device: torch.device) -> None:
    """Only where another order of the sum moves the quotient over a rounding's edge."""
    module = LlamaRMSNorm(256, eps=EPSILON).to(device, torch.float16)
    torch.nn.init.normal_(module.weight)
    x = draw_rows(1, 32, 256).to(device, torch.float16)
    same = rms_norm(x, module.weight.detach(), EPSILON) == module(x)
    assert same.float().mean() > 0.995


def test_bfloat16(device: torch.device) -> None:
    x, weight = (draw_rows(i, 3, 128).to(device, torch.bfloat16) for i in range(2))
    normed = rms_norm(x, weight[0], EPSILON)
    assert torch.allclose(normed.double(), exact(x, weight[0]), rtol=2**-6, atol=0)


def test_rows_that_lie_apart(device: torch.device) -> None:
    """Heads of a part of a larger product, as a query's norm is given them."""
    product = draw_rows(2, 1, 3, 100).to(device)
    query = product[..., 20:68].view(1, 3, 4, 12)
    weight = torch.linspace(0.5, 2, 12, device=device)
    assert torch.equal(rms_norm(query, weight, EPSILON), rms_norm(query.clone(), weight, EPSILON))
    part = product[..., 3:40]
    total, normed = add_rms_norm(part, product[..., 40:77], product[0, 0, :37], EPSILON)
    assert torch.equal(total, product[..., 40:77] + part)
    assert within_roundings(normed, exact(total, product[0, 0, :37]))


@pytest.mark.parametrize("size", [72, 75])
def test_a_row_has_the_same_bits_in_any_company(size: int, device: torch.device) -> None:
    x, residual = (draw_rows(i, 20, size).to(device) for i in range(2))
    weight = residual[0]
    whole = rms_norm(x, weight, EPSILON)
    total, normed = add_rms_norm(x, residual, weight, EPSILON)
    for start, stop in ((0, 1), (7, 8), (3, 19)):
        some = slice(start, stop)
        assert torch.equal(rms_norm(x[some], weight, EPSILON), whole[some])
        assert torch.equal(rms_norm(x[None, some], weight, EPSILON), whole[None, some])
        apart = add_rms_norm(x[some], residual[some], weight, EPSILON)
        assert torch.equal(apart[0], total[some]) and torch.equal(apart[1], normed[some])


def test_no_rows(device: torch.device) -> None:
    x = torch.zeros(0, 8, device=device)
    assert rms_norm(x, x.new_ones(8), EPSILON).shape == (0, 8)
