"""Noise made in a kernel: the reference's words bit for bit, its logarithms up to rounding."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.kernels import noise as reference
from lorax_spec.kernels.triton import philox
from lorax_spec.kernels.triton.variant import INTERPRETED

EPSILON = torch.finfo(torch.float32).eps
SEEDS = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 2**63 - 1, 2**63, 2**64 - 1]))
POSITIONS = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 2**31, 2**32 - 1]))


def _signed(seed: int) -> int:
    return seed - 2**64 if seed >= 2**63 else seed


def _noise(
    rows: list[tuple[int, int]], vocabulary: int, device: torch.device, block: int = 64
) -> tuple[torch.Tensor, ...]:
    seeds = torch.tensor([_signed(seed) for seed, _ in rows], device=device)
    positions = torch.tensor([position for _, position in rows], device=device)
    made = philox.noise_of(seeds, positions, vocabulary, block)
    return tuple(one.cpu() for one in made)


def _words(rows: list[tuple[int, int]], vocabulary: int) -> torch.Tensor:
    groups = torch.arange(-(-vocabulary // 4))[None].expand(len(rows), -1)
    zero = torch.zeros_like(groups)
    seeds = torch.tensor([[seed >> 32, seed & 0xFFFFFFFF] for seed, _ in rows])
    positions = torch.tensor([[position] for _, position in rows])
    counters = (groups, positions + zero, zero, zero)
    words = reference.philox(counters, (seeds[:, 1:] + zero, seeds[:, :1] + zero))
    return torch.stack(words, -1).flatten(1)[:, :vocabulary]


@settings(max_examples=15)
@given(rows=st.lists(st.tuples(SEEDS, POSITIONS), min_size=1, max_size=3), data=st.data())
def test_words_and_uniforms_are_the_references_bits(
    rows: list[tuple[int, int]], data: st.DataObject, device: torch.device
) -> None:
    vocabulary = data.draw(st.integers(1, 200))
    words, uniforms, noise = _noise(rows, vocabulary, device)
    assert torch.equal(words, _words(rows, vocabulary))
    assert torch.equal(uniforms, ((words.double() + 0.5) * 2.0**-32).float())
    seeds, positions = zip(*rows, strict=True)
    expected = reference.gumbel(seeds, positions, vocabulary, torch.device("cpu"))
    torch.testing.assert_close(noise, expected, rtol=4 * EPSILON, atol=4 * EPSILON)


@triton.jit
def _logs_kernel(words, logs, noise, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = philox.uniform_of(tl.load(words + at).to(tl.uint32))
    tl.store(logs + at, philox.log_of_one_less(v))
    tl.store(noise + at, philox.gumbel_of_uniform(v))


def _kinds_of_words(block: int) -> torch.Tensor:
    """A multiple of ``block`` of them: both ends, around every power of two, where the noise is
    0 (v = 1 - 1/e), and any."""
    near = torch.arange(-2048, 2048)
    middles = [0, 2**32 - 1, round((1 - math.exp(-1)) * 2**32), *(2**power for power in range(32))]
    kinds = [near + middle for middle in middles]
    words = torch.cat([*kinds, torch.randint(0, 2**32, (2**19,))])
    words = words[(words >= 0) & (words < 2**32)]
    return torch.cat([words, words.new_zeros(-len(words) % block)])


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_logarithms_are_exact_up_to_a_few_units_in_the_last_place(device: torch.device) -> None:
    """Against float64 of the same v.  The outer logarithm is 0 where the inner one is 1, so its
    error is counted in units of the larger of 1 and the result.  Most of it is that of NumPy's own
    log, the interpreter's, with up to 4 units; CUDA's has 1."""
    torch.manual_seed(0)
    block = 2**16 if INTERPRETED else 1024
    words = _kinds_of_words(block).to(device)
    logs = torch.empty(len(words), device=device)
    noise = torch.empty_like(logs)
    _logs_kernel[(len(words) // block,)](words, logs, noise, BLOCK=block, enable_fp_fusion=False)
    v = ((words.double() + 0.5) * 2.0**-32).float().double()
    inner = torch.log1p(-v)
    outer, finite = -(-inner).log(), v < 1.0
    unit = torch.exp2(inner.abs().log2().floor()) * EPSILON
    assert float(((logs.double() - inner).abs() / unit)[finite].max()) <= 5.0
    unit = EPSILON * outer.abs().clamp(min=1.0)
    assert float(((noise.double() - outer).abs() / unit)[finite].max()) <= 3.0
    assert bool((noise[~finite] == -torch.inf).all())
    assert int((~finite).sum()) > 0


@pytest.mark.parametrize("block", [16, 64, 256])
def test_blocks_change_no_bit(block: int, device: torch.device) -> None:
    for made, other in zip(
        _noise([(3, 9)], 300, device, block), _noise([(3, 9)], 300, device, 1024), strict=True
    ):
        assert torch.equal(made, other)
