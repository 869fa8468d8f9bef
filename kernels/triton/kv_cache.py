"""Writing and moving rows of a paged KV cache; twins of lorax_spec.kernels.kv_cache.

A layer's caches are ``[kv_heads, slots, dim]``; keys and values may differ in ``dim``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from lorax_spec.kernels.pointers import addresses
from lorax_spec.kernels.triton.pointers import elements
from lorax_spec.kernels.triton.variant import ELEMENTS, POINTERS, Variant

#: Rows that one program writes: enough for whole memory transactions, few enough that a decode's
#: rows spread over the GPU.
WRITE_ROWS = 4
#: Pairs that one program reads before it writes any of them.
MOVE_PAIRS = 16
#: Elements that are moved as one where all dims are multiples of so many.
VECTOR = 8


@triton.jit
def _put_rows(cache, rows_of, slots, row, kept, head, dim,
              cache_head, cache_slot, rows_head, rows_row, BLOCK: tl.constexpr):  # fmt: skip
    columns = tl.arange(0, BLOCK)
    mask = kept[:, None] & (columns < dim)[None, :]
    source = rows_of + head * rows_head + row[:, None] * rows_row + columns[None, :]
    target = cache + head * cache_head + slots[:, None] * cache_slot + columns[None, :]
    tl.store(target, tl.load(source, mask=mask), mask=mask)


@triton.jit
def write_rows(keys_cache, values_cache, key, value, slots, rows, key_dim, value_dim,
               keys_head, keys_slot, values_head, values_slot,
               key_head, key_row, value_head, value_row,
               ROWS: tl.constexpr, KEY_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr):  # fmt: skip
    """Programs (blocks of rows, heads)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(1).to(tl.int64)
    slot = tl.load(slots + row, mask=row < rows, other=-1)
    kept = slot >= 0
    _put_rows(keys_cache, key, slot, row, kept, head, key_dim,
              keys_head, keys_slot, key_head, key_row, KEY_BLOCK)  # fmt: skip
    _put_rows(values_cache, value, slot, row, kept, head, value_dim,
              values_head, values_slot, value_head, value_row, VALUE_BLOCK)  # fmt: skip


def write(
    keys_cache: torch.Tensor,
    values_cache: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """``keys_cache[:, slots[i]] = key[:, i]`` and the same of values, in one launch.

    Rows of a negative slot only pad and are written nowhere; the other slots are distinct.

    Args:
        keys_cache, values_cache: [kv_heads, slots, key_dim], [kv_heads, slots, value_dim].
        key, value: [kv_heads, rows, key_dim], [kv_heads, rows, value_dim], of the caches' dtype,
            views of any strides but with neighbouring elements of a row side by side.
        slots: int64 [rows].
    """
    heads, rows, key_dim = key.shape
    value_dim = value.shape[2]
    if any(tensor.stride(2) != 1 for tensor in (keys_cache, values_cache, key, value)):
        raise ValueError("elements of a row do not lie side by side")
    write_rows[(triton.cdiv(rows, WRITE_ROWS), heads)](
        keys_cache, values_cache, key, value, slots, rows, key_dim, value_dim,
        *keys_cache.stride()[:2], *values_cache.stride()[:2], *key.stride()[:2],
        *value.stride()[:2], ROWS=WRITE_ROWS, KEY_BLOCK=triton.next_power_of_2(key_dim),
        VALUE_BLOCK=triton.next_power_of_2(value_dim), num_warps=4,
    )  # fmt: skip


@dataclass(frozen=True)
class CacheTable:
    """All layers' caches, as ``move_slots`` finds them.

    Keys and values alike are planes ``[heads, slots, dim]``, which may differ in heads and dim but
    not in slots and dtype.  ``planes`` only keeps the memory alive.
    ``pointers`` int64, ``heads`` int32 and ``dims`` int32 are [planes], on the caches' device.
    """

    planes: tuple[torch.Tensor, ...]
    pointers: torch.Tensor
    heads: torch.Tensor
    dims: torch.Tensor
    slots: int
    most_heads: int
    longest_dim: int
    vector: int

    @classmethod
    def of(cls, layers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> CacheTable:
        """Built once, when the caches are allocated."""
        planes = tuple(plane for layer in layers for plane in layer)
        first = planes[0]
        if len({(plane.shape[1], plane.dtype, plane.device) for plane in planes}) > 1:
            raise ValueError("caches differ in slots, dtype or device")
        heads = torch.tensor([plane.shape[0] for plane in planes], dtype=torch.int32)
        dims = torch.tensor([plane.shape[2] for plane in planes], dtype=torch.int32)
        return cls(
            planes,
            addresses(planes, first.device),
            heads.to(first.device),
            dims.to(first.device),
            first.shape[1],
            int(heads.max()),
            int(dims.max()),
            math.gcd(VECTOR, *dims.tolist()),
        )


@triton.jit
def move_slots(pointers, heads, dims, sources, targets, starts, slots,
               ELEMENT: tl.constexpr, PAIRS: tl.constexpr, BLOCK: tl.constexpr,
               VECTOR: tl.constexpr):  # fmt: skip
    """Programs (sequences, planes, heads); dims are multiples of VECTOR, which is made visible.

    A block of pairs is read before any of it is written, and blocks follow in order.  The barriers
    keep threads of one program from overtaking each other.
    """
    sequence, plane, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    if start >= end or head >= tl.load(heads + plane):
        return
    dim = tl.load(dims + plane).to(tl.int64) // VECTOR * VECTOR
    base = elements(tl.load(pointers + plane), ELEMENT) + head * (slots * dim)
    columns = tl.arange(0, BLOCK)
    for first in range(start, end, PAIRS):
        pair = first + tl.arange(0, PAIRS)
        source = tl.load(sources + pair, mask=pair < end, other=-1)
        target = tl.load(targets + pair, mask=pair < end, other=-1)
        mask = ((source >= 0) & (target >= 0))[:, None] & (columns < dim)[None, :]
        found = tl.load(base + source[:, None] * dim + columns[None, :], mask=mask)
        tl.debug_barrier()
        tl.store(base + target[:, None] * dim + columns[None, :], found, mask=mask)
        tl.debug_barrier()


def move(
    table: CacheTable, sources: torch.Tensor, targets: torch.Tensor, starts: torch.Tensor
) -> None:
    """Copy slots ``sources`` to ``targets`` in every layer, in one launch.

    The pairs of a sequence are worked off in order, at once with those of other sequences.  So that
    this equals reading all before writing any, no target may be the source of a later pair of its
    sequence or of any pair of another.  An accepted path's pairs are so in the order of its depth:
    the token at depth d goes from place n >= d of the draft to place d, both ascending, and the
    slots of two places differ whichever order blocks are in.

    Args:
        sources, targets: int64 [n]; a pair with a negative one only pads.
        starts: int32 [sequences + 1], sequence ``s`` has the pairs ``starts[s]`` up to
            ``starts[s + 1]``; pairs of no sequence are not looked at.
    """
    grid = (len(starts) - 1, len(table.planes), table.most_heads)
    move_slots[grid](
        table.pointers, table.heads, table.dims, sources, targets, starts, table.slots,
        ELEMENT=ELEMENTS[table.planes[0].dtype], PAIRS=MOVE_PAIRS,
        BLOCK=triton.next_power_of_2(table.longest_dim), VECTOR=table.vector, num_warps=4,
    )  # fmt: skip


def variants() -> Iterator[Variant]:
    """Of head dims 64, 128 and 256, and keys longer than values."""
    sizes = "rows key_dim value_dim keys_head keys_slot values_head values_slot key_head key_row "
    integers = dict.fromkeys((sizes + "value_head value_row").split(), "i32")
    for dtype, element in ELEMENTS.items():
        pointer = POINTERS[dtype]
        tensors = dict.fromkeys(("keys_cache", "values_cache", "key", "value"), pointer)
        for key, value in ((64, 64), (128, 128), (256, 256), (256, 128)):
            yield Variant(
                f"{pointer[1:]} {key} {value}",
                write_rows,
                {**tensors, "slots": "*i64", **integers},
                {"ROWS": WRITE_ROWS, "KEY_BLOCK": key, "VALUE_BLOCK": value},
            )
        for dim in (64, 128, 256):
            yield Variant(
                f"{pointer[1:]} {dim}",
                move_slots,
                {
                    "pointers": "*i64", "heads": "*i32", "dims": "*i32", "sources": "*i64",
                    "targets": "*i64", "starts": "*i32", "slots": "i32",
                },
                {"ELEMENT": element, "PAIRS": MOVE_PAIRS, "BLOCK": dim, "VECTOR": VECTOR},
            )  # fmt: skip
