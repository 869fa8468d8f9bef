"""The gated product equals its formula, with torch's roundings."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.kernels import activation as reference
from lorax_spec.kernels.triton.activation import silu_product


def draw(seed: int, rows: int, size: int) -> torch.Tensor:
    """From far below zero, where silu vanishes, to far above."""
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 6


@settings(max_examples=20)
@given(
    st.integers(0, 99),
    st.integers(1, 4),
    st.sampled_from([1, 7, 64, 1023, 1024, 1025, 2100]),
    st.sampled_from([torch.float32, torch.float16]),
)
def test_products_of_any_size(
    device: torch.device, seed: int, rows: int, size: int, dtype: torch.dtype
) -> None:
    gate, up = (draw(seed + i, rows, size).to(device, dtype) for i in range(2))
    wide = gate.double()
    expected = wide * wide.sigmoid() * up.double()
    actual = silu_product(gate, up)
    # Two roundings; in float32 those of the exponential and the quotient.
    bound = torch.finfo(dtype).eps * (1.1 if dtype != torch.float32 else 8)
    smallest = torch.finfo(dtype).smallest_normal * 64
    assert torch.allclose(actual.double(), expected, rtol=bound, atol=smallest)
    assert torch.allclose(actual, reference.silu_product(gate, up), rtol=bound, atol=smallest)


def test_float16_has_nearly_all_bits_of_torch(device: torch.device) -> None:
    """Only where another exponential moves the activation over a rounding's edge."""
    gate, up = (draw(i, 4, 1000).to(device, torch.float16) for i in range(2))
    same = silu_product(gate, up) == reference.silu_product(gate, up)
    assert same.float().mean() > 0.995


def test_halves_of_one_product(device: torch.device) -> None:
    product = draw(0, 5, 90).to(device)[None]
    gate, up = product.split(45, -1)
    assert torch.equal(silu_product(gate, up), silu_product(gate.clone(), up.clone()))
    assert torch.equal(silu_product(gate, up)[:, 2:3], silu_product(gate[:, 2:3], up[:, 2:3]))


def test_bfloat16(device: torch.device) -> None:
    gate, up = draw(0, 2, 64).to(device).bfloat16(), draw(1, 2, 64).to(device).bfloat16()
    expected = reference.silu_product(gate.double(), up.double())
    assert torch.allclose(silu_product(gate, up).double(), expected, rtol=2**-6, atol=1e-6)


def test_no_rows(device: torch.device) -> None:
    nothing = torch.zeros(0, 8, device=device)
    assert silu_product(nothing, nothing).shape == (0, 8)
