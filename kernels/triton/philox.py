"""Gumbel noise inside a kernel: the twin of ``lorax_spec.kernels.noise``.

Philox4x32-10 (Salmon et al. 2011), keyed by the seed, with the counter (token id // 4, position,
0, 0) and the lane token id % 4.  Bit-equal to the reference: the words, and the uniform number v,
which is exact up to the one rounding to float32.  Equal only up to rounding: the two logarithms of
``-log(-log1p(-v))``, since every device's library rounds them in its own way (here within a few
units in the last place of the larger of 1 and the result).  So two candidates whose scores are
closer than that may swap between a CPU and a GPU; on one device every drafter and every choice
takes its noise from the same function.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from lorax_spec.kernels.triton.variant import Variant

BLOCK = 1024


@triton.jit
def words_of(seed, position, first, BLOCK: tl.constexpr):
    """Random uint32 words [BLOCK] of the tokens from ``first`` on, a multiple of four.

    ``seed`` is the unsigned seed's bits as int64, ``position`` is below 2**32, as int64.
    """
    groups = (first // 4 + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    zeros = tl.zeros((BLOCK // 4,), tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, groups, zeros + position.to(tl.uint32), zeros, zeros)
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@triton.jit
def uniform_of(words):
    """v in (0, 1], float32, with full relative precision near 0."""
    # In float32, word + 0.5 would be rounded once before the scaling and once after.
    return ((words.to(tl.float64) + 0.5) * 2.3283064365386963e-10).to(tl.float32)


@triton.jit
def log_of_one_less(v):
    """log1p(-v) for v in [0, 1], from log alone.

    What rounding u = 1 - v lost is known exactly and small, so the logarithm's series around u
    gives it back: log(u + lost) = log(u) + lost / u - ..., with 1 / u = 1 + v + ... where u is
    near 1; where v is above a half, nothing is lost.
    """
    u = 1.0 - v
    lost = (1.0 - u) - v
    return tl.log(u) + lost * (1.0 + v)


@triton.jit
def gumbel_of_uniform(v):
    """Gumbel noise of uniform numbers; minus infinity where v is 1."""
    return -tl.log(-log_of_one_less(v))


@triton.jit
def gumbel_of(seed, position, first, BLOCK: tl.constexpr):
    """Standard Gumbel noise, float32 [BLOCK], of the tokens from ``first`` on."""
    return gumbel_of_uniform(uniform_of(words_of(seed, position, first, BLOCK)))


@triton.jit
def _noise_kernel(words, uniforms, noise, seeds, positions, vocabulary, BLOCK: tl.constexpr):
    row, first = tl.program_id(0), tl.program_id(1) * BLOCK
    seed, position = tl.load(seeds + row), tl.load(positions + row)
    tokens = first + tl.arange(0, BLOCK)
    at, mask = row.to(tl.int64) * vocabulary + tokens, tokens < vocabulary
    word = words_of(seed, position, first, BLOCK)
    tl.store(words + at, word.to(tl.int64), mask=mask)
    tl.store(uniforms + at, uniform_of(word), mask=mask)
    tl.store(noise + at, gumbel_of(seed, position, first, BLOCK), mask=mask)


def noise_of(
    seeds: torch.Tensor, positions: torch.Tensor, vocabulary: int, block: int = BLOCK
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Words int64, uniform numbers float32 and Gumbel noise float32, each [rows, vocabulary].

    For drafters that rank by the noise and for tests; sampling makes its noise in place.
    ``seeds`` int64 [rows] (bits of the unsigned ones), ``positions`` int64 [rows], below 2**32.
    """
    shape, device = (seeds.shape[0], vocabulary), seeds.device
    words = torch.empty(shape, dtype=torch.int64, device=device)
    uniforms = torch.empty(shape, dtype=torch.float32, device=device)
    noise = torch.empty_like(uniforms)
    grid = (shape[0], triton.cdiv(vocabulary, block))
    _noise_kernel[grid](
        words, uniforms, noise, seeds, positions, vocabulary, BLOCK=block, enable_fp_fusion=False
    )
    return words, uniforms, noise


def variants() -> Iterator[Variant]:
    signature = {
        "words": "*i64",
        "uniforms": "*fp32",
        "noise": "*fp32",
        "seeds": "*i64",
        "positions": "*i64",
        "vocabulary": "i32",
    }
    options = {"enable_fp_fusion": False}
    yield Variant("", _noise_kernel, signature, {"BLOCK": BLOCK}, options=options)
