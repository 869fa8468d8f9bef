"""Partial results of attention over parts of a context, and putting them together.

Of each part a row keeps ``top``, its highest score (base 2), ``weight``, the sum of
``2 ** (score - top)``, and ``total``, the values summed with these weights.  Parts are folded from
the left (Milakov and Gimelshein 2018, arXiv 1805.02867, section 3.1)::

    peak   = max(top, other_top)
    weight = weight * 2 ** (top - peak) + other_weight * 2 ** (other_top - peak)
    total  = total  * 2 ** (top - peak) + other_total  * 2 ** (other_top - peak)
    out    = total / (weight + 2 ** (sink - top))

A part that a row sees nothing of has a ``top`` of -inf and changes nothing, not even the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from lorax_spec.kernels.triton.variant import POINTERS, Variant


@dataclass(frozen=True)
class Workspace:
    """Partial results, float32: ``tops`` and ``weights`` [splits, rows, heads], ``sums`` with
    [value_dim] behind.  A captured graph keeps them; layers may share them."""

    tops: torch.Tensor
    weights: torch.Tensor
    sums: torch.Tensor


def workspace(
    rows: int, heads: int, value_dim: int, splits: int, device: torch.device
) -> Workspace:
    """What ``splits`` parts of up to ``rows`` query rows need."""
    tops = torch.empty(splits, rows, heads, dtype=torch.float32, device=device)
    sums = torch.empty(splits, rows, heads, value_dim, dtype=torch.float32, device=device)
    return Workspace(tops, torch.empty_like(tops), sums)


@triton.jit
def fold(top, weight, total, other_top, other_weight, other_total):
    """One more part; multiply-adds are explicit so that every kernel rounds them alike."""
    peak = tl.maximum(top, other_top)
    level = tl.where(peak == float("-inf"), 0.0, peak)
    shrink = tl.exp2(top - level)
    other_shrink = tl.exp2(other_top - level)
    weight = tl.fma(weight, shrink, other_weight * other_shrink)
    total = tl.fma(total, shrink[:, None], other_total * other_shrink[:, None])
    return peak, weight, total


@triton.jit
def finish(top, weight, total, sink, valid, SUNK: tl.constexpr):
    """Results of all parts together; ``sink`` in base 2 like the scores."""
    if SUNK:
        level = tl.maximum(top, sink)
        shrink = tl.exp2(top - level)
        weight = tl.fma(weight, shrink, tl.exp2(sink - level))
        total = total * shrink[:, None]
    weight = tl.where(valid, weight, 1.0)
    return total / weight[:, None]


@triton.jit
def _combine(
    out, tops, weights, sums, sinks, row_starts, sequences, heads, count, splits, log2e,
    stride_out_row, stride_out_head,
    HEADS: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_PAD: tl.constexpr, SUNK: tl.constexpr,
):  # fmt: skip
    """``HEADS`` heads of one of the ``count`` rows; grid (rows, heads / HEADS)."""
    row = tl.program_id(0)
    if row >= tl.load(row_starts + sequences):
        return
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    dims = tl.arange(0, VALUE_PAD)
    valid = head < heads
    held = (dims < VALUE_DIM)[None, :]

    top = tl.full((HEADS,), float("-inf"), tl.float32)
    weight = tl.zeros((HEADS,), tl.float32)
    total = tl.zeros((HEADS, VALUE_PAD), tl.float32)
    for split in range(splits):
        at = (split * count + row.to(tl.int64)) * heads + head
        other_top = tl.load(tops + at, mask=valid, other=float("-inf"))
        seen = other_top > float("-inf")
        other_weight = tl.load(weights + at, mask=seen, other=0.0)
        other_total = tl.load(
            sums + at[:, None] * VALUE_DIM + dims[None, :], mask=seen[:, None] & held, other=0.0
        )
        top, weight, total = fold(top, weight, total, other_top, other_weight, other_total)

    sink = top
    if SUNK:
        sink = tl.load(sinks + head, mask=valid, other=0.0).to(tl.float32) * log2e
    result = finish(top, weight, total, sink, valid, SUNK)
    target = out + row.to(tl.int64) * stride_out_row + head[:, None] * stride_out_head
    tl.store(target + dims[None, :], result.to(out.dtype.element_ty), mask=valid[:, None] & held)


def combine(
    out: torch.Tensor,
    parts: Workspace,
    splits: int,
    row_starts: torch.Tensor,
    sinks: torch.Tensor | None,
    log2e: float,
) -> None:
    """Fold ``splits`` parts into ``out`` [rows, heads, value_dim], rows of sequences only.

    ``parts`` may hold more of everything but heads and value_dim than is used.
    """
    rows, heads, value_dim = out.shape
    block = min(4, triton.next_power_of_2(heads))
    _combine[(rows, triton.cdiv(heads, block))](
        out,
        parts.tops,
        parts.weights,
        parts.sums,
        sinks,
        row_starts,
        len(row_starts) - 1,
        heads,
        parts.tops.shape[1],
        splits,
        log2e,
        out.stride(0),
        out.stride(1),
        HEADS=block,
        VALUE_DIM=value_dim,
        VALUE_PAD=triton.next_power_of_2(value_dim),
        SUNK=sinks is not None,
    )


def variants() -> Iterator[Variant]:
    """Results of every type, with and without sinks."""
    for dtype, value_dim, sunk in (
        (torch.bfloat16, 128, False),
        (torch.bfloat16, 64, True),
        (torch.bfloat16, 256, False),
        (torch.float16, 80, False),
        (torch.float32, 128, False),
    ):
        pointer = POINTERS[dtype]
        signature = {"out": pointer, "tops": "*fp32", "weights": "*fp32", "sums": "*fp32"}
        constants = {
            "HEADS": 4,
            "VALUE_DIM": value_dim,
            "VALUE_PAD": triton.next_power_of_2(value_dim),
            "SUNK": sunk,
        }
        if sunk:
            signature["sinks"] = pointer
        else:
            constants["sinks"] = None
        signature |= {"row_starts": "*i32"}
        signature |= dict.fromkeys(("sequences", "heads", "count", "splits"), "i32")
        signature |= {"log2e": "fp32", "stride_out_row": "i32", "stride_out_head": "i32"}
        label = f"{pointer[1:]} {value_dim}{' sinks' if sunk else ''}"
        yield Variant(label, _combine, signature, constants)
