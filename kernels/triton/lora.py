"""LoRA of up to three modules that read the same input; twin of lorax_spec.kernels.lora_rows.

Semantics, for every row ``i`` of a tile of slot ``s`` and every module ``m`` that the slot's
adapter changes (Hu et al. 2021, arXiv 2106.09685)::

    low[i]   = x[i] @ A[m, s].T                                   shrink
    y[m][i] += scale[m, s] * (low[i] @ B[m, s].T)                 expand

``low`` is float32, summed over chunks of ``SPLIT`` input features, each of them a program's, so
that one row's A is read by many processors; the chunks are added in their order.  The update is
float32 too, B being widened, and is rounded once, when it has been added to ``y``.

A row's result depends on nothing but its x, y, A, B and scale: the sizes of blocks are constants,
and every sum is formed in an order of its own indices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from lorax_spec.kernels.lora_rows import TILE_ROWS, Grouping
from lorax_spec.kernels.triton.pointers import elements
from lorax_spec.kernels.triton.variant import ELEMENTS, INTERPRETED, POINTERS, Variant

#: Modules of one bundle at most: queries, keys and values.
MODULES = 3
#: Ranks are worked off in blocks of so many, input features in chunks of blocks, and output
#: features in blocks.
RANK_BLOCK = 32
SPLIT = 1024
IN_BLOCK = 128
OUT_BLOCK = 128
#: A rank that this divides lets rows of B be read in whole vectors.
VECTOR = 8


@dataclass(frozen=True)
class LoraTables:
    """What each slot's adapter does to the modules of a bundle; contiguous, on the device.

    ``a``, ``b`` int64 [modules, slots]: addresses of [rank, in_features] and [out_features, rank],
    made by ``pointers.addresses``, or 0 where the adapter does not change the module.
    ``ranks`` int32, ``scales`` float32 [modules, slots]: mean nothing there.
    ``most_rank``: no rank is above it; a captured graph holds it.
    """

    a: torch.Tensor
    b: torch.Tensor
    ranks: torch.Tensor
    scales: torch.Tensor
    most_rank: int


@triton.jit
def shrink(low, x, a, ranks, order, tile_slots, tile_starts, tile_counts,
           slots, modules, in_features, x_row, low_chunk, low_module, low_row,
           ELEMENT: tl.constexpr, WIDEN: tl.constexpr, TILE: tl.constexpr,
           RANK_BLOCK: tl.constexpr, SPLIT: tl.constexpr, IN_BLOCK: tl.constexpr):  # fmt: skip
    """Programs (tiles, modules x blocks of ranks, chunks).

    low is [chunks, modules, rows, ranks], the last filled up to whole blocks.
    """
    tile = tl.program_id(0)
    slot = tl.load(tile_slots + tile)
    if slot < 0:
        return
    module = tl.program_id(1) % modules
    first_rank = tl.program_id(1) // modules * RANK_BLOCK
    address = tl.load(a + module * slots + slot)
    rank = tl.load(ranks + module * slots + slot)
    if address == 0 or first_rank >= rank:
        return
    own = tl.arange(0, TILE)
    kept = own < tl.load(tile_counts + tile)
    row = tl.load(order + tl.load(tile_starts + tile) + own, mask=kept, other=0).to(tl.int64)
    ranked = first_rank + tl.arange(0, RANK_BLOCK)
    factor = elements(address, ELEMENT)
    chunk = tl.program_id(2)
    sums = tl.zeros((TILE, RANK_BLOCK), tl.float32)
    for start in range(chunk * SPLIT, tl.minimum((chunk + 1) * SPLIT, in_features), IN_BLOCK):
        column = start + tl.arange(0, IN_BLOCK)
        inside = column < in_features
        inputs = tl.load(x + row[:, None] * x_row + column[None, :],
                         mask=kept[:, None] & inside[None, :], other=0.0)  # fmt: skip
        down = tl.load(factor + ranked[None, :] * in_features + column[:, None],
                       mask=(ranked < rank)[None, :] & inside[:, None], other=0.0)  # fmt: skip
        if WIDEN:
            inputs, down = inputs.to(tl.float32), down.to(tl.float32)
        sums = tl.dot(inputs, down, sums, input_precision="ieee")
    low += chunk.to(tl.int64) * low_chunk + module.to(tl.int64) * low_module
    tl.store(low + row[:, None] * low_row + ranked[None, :], sums,
             mask=kept[:, None] & (ranked < rank)[None, :])  # fmt: skip


@triton.jit
def _update(low, row, kept, low_chunk, low_row, factor, rank, out, out_features,
            CHUNKS: tl.constexpr, TILE: tl.constexpr, RANK_BLOCK: tl.constexpr,
            OUT_BLOCK: tl.constexpr, PRECISION: tl.constexpr, VECTOR: tl.constexpr):  # fmt: skip
    """[TILE, OUT_BLOCK] of one tile; ``rank`` is a multiple of VECTOR, which is made visible."""
    rank = rank // VECTOR * VECTOR
    update = tl.zeros((TILE, OUT_BLOCK), tl.float32)
    for first in range(0, rank, RANK_BLOCK):
        ranked = first + tl.arange(0, RANK_BLOCK)
        up = tl.load(factor + ranked[:, None] + out[None, :].to(tl.int64) * rank,
                     mask=(ranked < rank)[:, None] & (out < out_features)[None, :],
                     other=0.0)  # fmt: skip
        part = low + row[:, None] * low_row + ranked[None, :]
        mask = kept[:, None] & (ranked < rank)[None, :]
        sums = tl.zeros((TILE, RANK_BLOCK), tl.float32)
        for _ in tl.static_range(CHUNKS):
            sums += tl.load(part, mask=mask, other=0.0)
            part += low_chunk
        update = tl.dot(sums, up.to(tl.float32), update, input_precision=PRECISION)
    return update


@triton.jit
def expand(y_0, y_1, y_2, low, b, ranks, scales, order, tile_slots, tile_starts, tile_counts,
           slots, low_chunk, low_module, low_row,
           out_0, out_1, out_2, y_row_0, y_row_1, y_row_2,
           ELEMENT: tl.constexpr, CHUNKS: tl.constexpr, TILE: tl.constexpr,
           RANK_BLOCK: tl.constexpr, OUT_BLOCK: tl.constexpr, PRECISION: tl.constexpr,
           VECTOR: tl.constexpr):  # fmt: skip
    """Programs (tiles, modules, blocks of output features)."""
    tile, module = tl.program_id(0), tl.program_id(1)
    slot = tl.load(tile_slots + tile)
    if slot < 0:
        return
    y, out_features, y_row = y_0, out_0, y_row_0
    if module == 1:
        y, out_features, y_row = y_1, out_1, y_row_1
    if module == 2:
        y, out_features, y_row = y_2, out_2, y_row_2
    address = tl.load(b + module * slots + slot)
    out = tl.program_id(2) * OUT_BLOCK + tl.arange(0, OUT_BLOCK)
    if address == 0 or tl.program_id(2) * OUT_BLOCK >= out_features:
        return
    rank = tl.load(ranks + module * slots + slot)
    own = tl.arange(0, TILE)
    kept = own < tl.load(tile_counts + tile)
    row = tl.load(order + tl.load(tile_starts + tile) + own, mask=kept, other=0).to(tl.int64)
    factor = elements(address, ELEMENT)
    low += module.to(tl.int64) * low_module
    if rank % VECTOR == 0:
        update = _update(low, row, kept, low_chunk, low_row, factor, rank, out, out_features,
                         CHUNKS, TILE, RANK_BLOCK, OUT_BLOCK, PRECISION, VECTOR)  # fmt: skip
    else:
        update = _update(low, row, kept, low_chunk, low_row, factor, rank, out, out_features,
                         CHUNKS, TILE, RANK_BLOCK, OUT_BLOCK, PRECISION, 1)  # fmt: skip
    update *= tl.load(scales + module * slots + slot)
    target = y + row[:, None] * y_row + out[None, :]
    mask = kept[:, None] & (out < out_features)[None, :]
    found = tl.load(target, mask=mask, other=0.0).to(tl.float32) + update
    tl.store(target, found.to(y.dtype.element_ty), mask=mask)


def add_lora(
    ys: Sequence[torch.Tensor], x: torch.Tensor, tables: LoraTables, grouping: Grouping
) -> None:
    """Add the updates of a bundle of modules in place, in two launches.

    Rows of no tile, and those whose adapter leaves a module as it is, keep their bits there.

    Args:
        ys: of every module [rows, out_features], at most ``MODULES``; they may be columns of one
            tensor.
        x: [rows, in_features], of the same dtype as ``ys`` and all factors.
    """
    modules, (rows, in_features) = len(ys), x.shape
    if any(tensor.stride(1) != 1 for tensor in (x, *ys)):
        raise ValueError("features do not lie side by side")
    padded = [*ys, *[ys[0]] * (MODULES - modules)]
    outs = [y.shape[1] for y in padded]
    chunks = triton.cdiv(in_features, SPLIT)
    tiles, slots = len(grouping.tile_slots), tables.a.shape[1]
    group = (grouping.order, grouping.tile_slots, grouping.tile_starts, grouping.tile_counts)
    blocks = triton.cdiv(tables.most_rank, RANK_BLOCK)
    low = x.new_empty((chunks, modules, rows, blocks * RANK_BLOCK), dtype=torch.float32)
    shrink[(tiles, modules * blocks, chunks)](
        low, x, tables.a, tables.ranks, *group,
        slots, modules, in_features, x.stride(0), *low.stride()[:3],
        **_shrink_constants(x.dtype), num_warps=4, num_stages=4,
    )  # fmt: skip
    expand[(tiles, modules, triton.cdiv(max(outs), OUT_BLOCK))](
        *padded, low, tables.b, tables.ranks, tables.scales, *group,
        slots, *low.stride()[:3], *outs, *[y.stride(0) for y in padded],
        **_expand_constants(x.dtype, chunks), num_warps=4, num_stages=1,
    )  # fmt: skip


def _shrink_constants(dtype: torch.dtype) -> dict[str, object]:
    return {
        "ELEMENT": ELEMENTS[dtype],
        "WIDEN": INTERPRETED,
        "TILE": TILE_ROWS,
        "RANK_BLOCK": RANK_BLOCK,
        "SPLIT": SPLIT,
        "IN_BLOCK": IN_BLOCK,
    }


def _expand_constants(dtype: torch.dtype, chunks: int) -> dict[str, object]:
    return {
        "ELEMENT": ELEMENTS[dtype],
        "CHUNKS": chunks,
        "TILE": TILE_ROWS,
        "RANK_BLOCK": RANK_BLOCK,
        "OUT_BLOCK": OUT_BLOCK,
        # Three products of TF32 keep float32's precision on tensor cores, for which an element of
        # 16 bits is one of TF32's numbers.
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32x3",
        "VECTOR": VECTOR,
    }


def variants() -> Iterator[Variant]:
    """Of one chunk and of 14 (the widest input of an 8B model)."""
    group = dict.fromkeys(("order", "tile_slots", "tile_starts", "tile_counts"), "*i32")
    lows = dict.fromkeys(("low_chunk", "low_module", "low_row"), "i32")
    outs = dict.fromkeys(("out_0", "out_1", "out_2", "y_row_0", "y_row_1", "y_row_2"), "i32")
    for dtype in ELEMENTS:
        pointer = POINTERS[dtype]
        sizes = dict.fromkeys(("slots", "modules", "in_features", "x_row"), "i32")
        down = {"low": "*fp32", "x": pointer, "a": "*i64", "ranks": "*i32", **group, **sizes}
        down_constants = _shrink_constants(dtype) | {"WIDEN": False}
        yield Variant(pointer[1:], shrink, {**down, **lows}, down_constants, num_stages=4)
        # As a launch specialises it for one module and one slot.
        ones = down_constants | {"slots": 1, "modules": 1}
        yield Variant(f"{pointer[1:]} one", shrink, {**down, **lows}, ones, num_stages=4)
        up = {
            **dict.fromkeys(("y_0", "y_1", "y_2"), pointer),
            "low": "*fp32", "b": "*i64", "ranks": "*i32", "scales": "*fp32", **group,
            "slots": "i32", **lows, **outs,
        }  # fmt: skip
        for chunks in (1, 4, 14):
            constants = _expand_constants(dtype, chunks)
            yield Variant(f"{pointer[1:]} {chunks}", expand, up, constants, num_stages=1)
