"""Batch-invariant linear layers; semantics in kernels/matmul.py.

A row's bits depend on that row, the weight and the bias alone:

- A tile always has BLOCK_ROWS rows, whether one of them is wanted or all.  On Hopper 64 rows are
  the least that its widest matrix instruction takes (wgmma m64), so one instruction serves decoding
  and prefill.  Smaller tiles for fewer rows would be other instructions, whose sums nobody
  promises to be alike.
- Tiles, the order of sums and the parts they are taken in depend on the sizes of the weight only.
  A weight with few outputs is split over its inputs, so that enough programs read it.  Few rows
  have a program for each part, and a second launch adds the parts up; many rows have one program
  that does the same additions in the same order.
- There is one binary for any number of rows; left to itself, Triton compiles one for a single row,
  one for multiples of 16 and one for the rest.

Few rows wait for the weight to be read: 64 rows make 64 operations per byte of a 16-bit weight, a
third of what an H200 could do while it reads.  Each weight is read from memory once per GROUP row
tiles, which share it in the L2 cache.  The tilings have not been timed: no GPU was at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from lorax_spec.kernels.triton.variant import ELEMENTS, INTERPRETED, POINTERS, Variant

BLOCK_ROWS = 64
#: Row tiles that go through all of a weight together.
GROUP = 16
#: Programs that keep every multiprocessor of a large GPU reading.
_BUSY = 128
#: Programs of two to a multiprocessor: from here on the wider tile costs nothing.
_BUSIER = 264
#: Inputs a part must have to be worth its sums being written and read again.
_SHORTEST_PART = 1024
_MOST_PARTS = 8
#: Numbers a program of the second launch adds up.
_SUMS = 1024


@dataclass(frozen=True)
class Tiling:
    """How a weight is cut: ``parts`` of ``part`` inputs (a multiple of ``block_in``; the last may
    be shorter), tiles of ``block_out`` outputs."""

    block_out: int
    block_in: int
    parts: int
    part: int
    num_warps: int
    num_stages: int


def tiling(out_features: int, in_features: int, dtype: torch.dtype) -> Tiling:
    """The one tiling of every product with such a weight."""
    if dtype == torch.float32:
        # Without TF32 there are no matrix instructions: small tiles that fit the registers.
        block_out, block_in, num_stages = 32, 32, 3
    else:
        wide = triton.cdiv(out_features, 64) >= _BUSIER
        block_out, block_in, num_stages = (64, 64, 5) if wide else (32, 128, 5)
    tiles, parts = triton.cdiv(out_features, block_out), 1
    while (
        parts < _MOST_PARTS and tiles * parts < _BUSY and in_features >= 2 * parts * _SHORTEST_PART
    ):
        parts *= 2
    part = triton.cdiv(triton.cdiv(in_features, parts), block_in) * block_in
    return Tiling(block_out, block_in, triton.cdiv(in_features, part), part, 4, num_stages)


@triton.jit(do_not_specialize=["rows"])
def _linear(
    x,
    weight,
    bias,
    y,
    rows,
    outs,
    ins,
    x_stride,
    part,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
    WHOLE: tl.constexpr,
    BIAS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Tile ``program_id(0)``; PARTS parts from ``program_id(1)`` on, whose results lie ``rows``
    rows apart."""
    out_tiles = tl.cdiv(outs, BLOCK_OUT)
    row_tiles = tl.cdiv(rows, BLOCK_ROWS)
    program = tl.program_id(0)
    group = program // (GROUP * out_tiles)
    within = program % (GROUP * out_tiles)
    together = tl.minimum(row_tiles - group * GROUP, GROUP)
    row = (group * GROUP + within % together) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    out = within // together * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    step = tl.arange(0, BLOCK_IN)
    wanted = row < rows
    x_rows = x + row.to(tl.int64)[:, None] * x_stride
    # Outputs that are not there read those of the last: cheaper than a mask, and never written.
    weight_rows = weight + tl.minimum(out, outs - 1).to(tl.int64)[None, :] * ins
    total = tl.zeros((BLOCK_ROWS, BLOCK_OUT), tl.float32)
    first = tl.program_id(1)
    for index in range(PARTS):
        start = (first + index) * part
        sums = tl.zeros((BLOCK_ROWS, BLOCK_OUT), tl.float32)
        for at in range(start, tl.minimum(start + part, ins), BLOCK_IN):
            inside = at + step
            if WHOLE:
                a = tl.load(x_rows + inside[None, :], mask=wanted[:, None], other=0.0)
                b = tl.load(weight_rows + inside[:, None])
            else:
                there = inside < ins
                a = tl.load(
                    x_rows + inside[None, :], mask=wanted[:, None] & there[None, :], other=0.0
                )
                b = tl.load(weight_rows + inside[:, None], mask=there[:, None], other=0.0)
            if WIDEN:
                a, b = a.to(tl.float32), b.to(tl.float32)
            sums = tl.dot(a, b, sums, input_precision="ieee")
        total += sums
    if BIAS:
        total += tl.load(bias + tl.minimum(out, outs - 1)).to(tl.float32)[None, :]
    y_rows = y + (first.to(tl.int64) * rows + row)[:, None] * outs
    kept = wanted[:, None] & (out < outs)[None, :]
    tl.store(y_rows + out[None, :], total.to(y.dtype.element_ty), mask=kept)


@triton.jit(do_not_specialize=["rows"])
def _add_parts(
    sums,
    bias,
    y,
    rows,
    outs,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    BIAS: tl.constexpr,
):
    """Row ``program_id(0)``: what the program of many rows does with its parts."""
    row = tl.program_id(0).to(tl.int64)
    out = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = out < outs
    total = tl.zeros((BLOCK,), tl.float32)
    for index in tl.static_range(PARTS):
        total += tl.load(sums + (row + index * rows) * outs + out, mask=there, other=0.0)
    if BIAS:
        total += tl.load(bias + out, mask=there, other=0.0).to(tl.float32)
    tl.store(y + row * outs + out, total.to(y.dtype.element_ty), mask=there)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x @ weight.T + bias``, each row with the same bits whatever the others are and however
    many.

    Args:
        x: [rows, in], a row's numbers side by side; rows may lie apart.
        weight: [out, in], contiguous, of the dtype of ``x``.
        bias: [out] or None.

    Returns:
        [rows, out], contiguous, in the dtype of ``x``.
    """
    (rows, ins), outs = x.shape, len(weight)
    assert x.stride(1) == 1 and weight.is_contiguous() and weight.dtype == x.dtype
    y = x.new_empty(rows, outs)
    if rows == 0:
        return y
    how = tiling(outs, ins, x.dtype)
    apart = how.parts if rows <= BLOCK_ROWS else 1
    made = y if apart == 1 else x.new_empty(apart * rows, outs, dtype=torch.float32)
    grid = (triton.cdiv(rows, BLOCK_ROWS) * triton.cdiv(outs, how.block_out), apart)
    _linear[grid](
        x,
        weight,
        bias if bias is not None else weight,
        made,
        rows,
        outs,
        ins,
        x.stride(0) if rows > 1 else ins,
        how.part,
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_OUT=how.block_out,
        BLOCK_IN=how.block_in,
        GROUP=GROUP,
        PARTS=how.parts // apart,
        WHOLE=ins % how.block_in == 0,
        BIAS=bias is not None and apart == 1,
        WIDEN=INTERPRETED,
        num_warps=how.num_warps,
        num_stages=how.num_stages,
    )
    if apart > 1:
        _add_parts[rows, triton.cdiv(outs, _SUMS)](
            made,
            bias if bias is not None else weight,
            y,
            rows,
            outs,
            BLOCK=_SUMS,
            PARTS=apart,
            BIAS=bias is not None,
        )
    return y


def variants() -> Iterator[Variant]:
    """Wide and narrow weights, split and not, of whole blocks and not, of each dtype."""
    shapes = {
        "wide": (28672, 4096),
        "narrow": (4096, 4096),
        "ragged": (4096, 4100),
        "split": (2048, 8192),
    }
    for dtype in ELEMENTS:
        element = POINTERS[dtype]
        name = str(dtype).removeprefix("torch.")
        for label, (outs, ins) in shapes.items():
            how = tiling(outs, ins, dtype)
            for apart in sorted({1, how.parts}):
                yield Variant(
                    label=f"{name} {label} {how.parts // apart} parts",
                    kernel=_linear,
                    signature={
                        **dict.fromkeys(("x", "weight", "bias"), element),
                        "y": element if apart == 1 else "*fp32",
                        **dict.fromkeys(("rows", "outs", "ins", "x_stride", "part"), "i32"),
                    },
                    constants={
                        "BLOCK_ROWS": BLOCK_ROWS,
                        "BLOCK_OUT": how.block_out,
                        "BLOCK_IN": how.block_in,
                        "GROUP": GROUP,
                        "PARTS": how.parts // apart,
                        "WHOLE": ins % how.block_in == 0,
                        "BIAS": apart == 1,
                        "WIDEN": False,
                    },
                    num_warps=how.num_warps,
                    num_stages=how.num_stages,
                )
        yield Variant(
            label=name,
            kernel=_add_parts,
            signature={
                "sums": "*fp32",
                **dict.fromkeys(("bias", "y"), element),
                **dict.fromkeys(("rows", "outs"), "i32"),
            },
            constants={"BLOCK": _SUMS, "PARTS": 4, "BIAS": True},
        )
