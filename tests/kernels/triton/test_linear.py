"""Products equal their formula, and a row's bits are its own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.kernels.matmul import split_linear
from lorax_spec.kernels.triton.linear import BLOCK_ROWS, linear, tiling
from lorax_spec.kernels.triton.variant import ELEMENTS, INTERPRETED

#: Interpreted kernels take milliseconds for each of their programs.
pytestmark = pytest.mark.slow

#: Around every edge of a tile and of a power of two.
COUNTS = (1, 2, 3, 5, 8, 16, 17, 33, 63, 64, 65, 66, 100, 127, 128, 129, 130)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(
    outs: int, ins: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a layer that keeps the size of what it is given."""
    weight = draw(outs, outs, ins) * ins**-0.5
    return weight.to(device, dtype), draw(ins, outs).to(device, dtype)


def assert_product(
    y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> None:
    """Of the sum of the terms' sizes: one rounding to the dtype, and in float32 those of a sum of
    so many terms, which grow like the root of their number."""
    expected = x.double() @ weight.double().T
    size = x.double().abs() @ weight.double().abs().T
    if bias is not None:
        expected, size = expected + bias.double(), size + bias.double().abs()
    sums = torch.finfo(torch.float32).eps * (4 + x.shape[1] ** 0.5)
    bound = sums * size + 0.51 * torch.finfo(y.dtype).eps * expected.abs()
    assert ((y.double() - expected).abs() <= bound + torch.finfo(y.dtype).smallest_normal).all()


@settings(max_examples=20)
@given(
    st.integers(0, 99),
    st.sampled_from([1, 2, 7, 64, 65, 130]),
    st.sampled_from([1, 31, 32, 33, 70, 96]),
    st.integers(1, 300),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float16]),
)
def test_products_of_any_size(
    device: torch.device,
    seed: int,
    rows: int,
    outs: int,
    ins: int,
    with_bias: bool,
    dtype: torch.dtype,
) -> None:
    weight, bias = layer(outs, ins, dtype, device)
    x = draw(seed, rows, ins).to(device, dtype)
    some_bias = bias if with_bias else None
    y = linear(x, weight, some_bias)
    assert y.shape == (rows, outs) and y.dtype == dtype and y.is_contiguous()
    assert_product(y, x, weight, some_bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("outs", "ins"), [(40, 100), (33, 256)])
def test_rows_have_the_same_bits_in_any_company(
    outs: int, ins: int, dtype: torch.dtype, device: torch.device
) -> None:
    """However many there are, whatever the others are and, on a GPU, at whichever place of a tile:
    the interpreter's matrix products are a CPU library's, which tells the rows of a tile apart."""
    weight, bias = layer(outs, ins, dtype, device)
    x = draw(0, COUNTS[-1], ins).to(device, dtype)
    whole = linear(x, weight, bias)
    for count in COUNTS:
        for start in range(0, len(x), BLOCK_ROWS if INTERPRETED else 7):
            some = slice(start, start + count)
            assert torch.equal(linear(x[some], weight, bias), whole[some]), (start, count)
    other = x * 1e3
    other[5] = x[5]
    assert torch.equal(linear(other, weight, bias)[5], whole[5])


def test_a_split_weight_has_the_same_bits_for_few_rows_and_many(device: torch.device) -> None:
    """Few rows go through two launches, many through one."""
    ins = 4096
    weight, bias = layer(20, ins, torch.float16, device)
    how = tiling(20, ins, torch.float16)
    assert how.parts == 4
    x = draw(0, BLOCK_ROWS + 6, ins).to(device, torch.float16)
    many = linear(x, weight, bias)
    assert_product(many, x, weight, bias)
    for count in (1, 3, 33, BLOCK_ROWS):
        assert torch.equal(linear(x[:count], weight, bias), many[:count])
    assert torch.equal(linear(x[BLOCK_ROWS:], weight, bias), many[BLOCK_ROWS:])
    apart = split_linear(x, weight, bias, how.part)
    assert torch.allclose(many, apart, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("ins", [2080, 4173])
def test_a_last_part_may_be_shorter(ins: int, device: torch.device) -> None:
    """By whole blocks of inputs, or within one."""
    how = tiling(3, ins, torch.float32)
    assert how.parts > 1 and how.parts * how.part > ins
    weight, bias = layer(3, ins, torch.float32, device)
    x = draw(0, BLOCK_ROWS + 1, ins).to(device)
    many = linear(x, weight, bias)
    assert_product(many, x, weight, bias)
    assert torch.equal(linear(x[:1], weight, bias), many[:1])


def test_bfloat16(device: torch.device) -> None:
    weight, bias = layer(33, 80, torch.bfloat16, device)
    x = draw(0, 3, 80).to(device, torch.bfloat16)
    expected = split_linear(x.double(), weight.double(), bias.double(), 80)
    y = linear(x, weight, bias)
    assert torch.allclose(y.double(), expected.double(), rtol=2**-7, atol=1e-5)
    assert torch.equal(linear(x[1:2], weight, bias), y[1:2])


def test_rows_may_lie_apart(device: torch.device) -> None:
    weight, _ = layer(8, 24, torch.float32, device)
    wide = draw(0, 5, 60).to(device)
    assert torch.equal(linear(wide[:, 7:31], weight), linear(wide[:, 7:31].contiguous(), weight))
    assert linear(wide[:0, :24], weight).shape == (0, 8)


@pytest.mark.parametrize("dtype", list(ELEMENTS))
def test_tilings_cover_every_weight(dtype: torch.dtype) -> None:
    sizes = (1, 7, 64, 896, 1000, 2048, 3072, 4096, 6144, 11008, 14336, 28672, 128256)
    for outs in sizes:
        for ins in sizes:
            how = tiling(outs, ins, dtype)
            assert how.part % how.block_in == 0
            assert (how.parts - 1) * how.part < ins <= how.parts * how.part
