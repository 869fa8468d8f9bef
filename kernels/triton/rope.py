"""Rotary embedding of queries and keys and the write into the cache; semantics in kernels/rope.py.

One launch for what is otherwise a dozen.  A program has some heads of one row: of its query, or of
its key and value.  Products are not fused with the sum after them, so the roundings are torch's in
float32 too.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from lorax_spec.kernels.triton.variant import ELEMENTS, POINTERS, Variant

#: Heads of a row that one program has: few, so that a single row is spread over the GPU.
HEADS = 4


@triton.jit
def _rotated(base, head, at, there, half, head_stride, cos, sin):
    """Halves of the rotated ``head``s that begin at ``base``; cos and sin of one row."""
    pointers = base + head[:, None] * head_stride + at[None, :]
    first = tl.load(pointers, mask=there, other=0.0)
    second = tl.load(pointers + half, mask=there, other=0.0)
    element = first.dtype
    low, high = at < half, half + at
    cos1 = tl.load(cos + at, mask=low, other=0.0).to(tl.float32)[None, :]
    cos2 = tl.load(cos + high, mask=low, other=0.0).to(tl.float32)[None, :]
    sin1 = tl.load(sin + at, mask=low, other=0.0).to(tl.float32)[None, :]
    sin2 = tl.load(sin + high, mask=low, other=0.0).to(tl.float32)[None, :]
    x1, x2 = first.to(tl.float32), second.to(tl.float32)
    # Through the dtype and back: torch rounds each product.
    kept1 = (x1 * cos1).to(element).to(tl.float32)
    kept2 = (x2 * cos2).to(element).to(tl.float32)
    turned1 = (x2 * sin1).to(element).to(tl.float32)
    turned2 = (x1 * sin2).to(element).to(tl.float32)
    return (kept1 - turned1).to(element), (kept2 + turned2).to(element)


@triton.jit
def _rotate_and_write(
    query,
    key,
    value,
    cos,
    sin,
    slots,
    rotated,
    keys,
    values,
    heads,
    kv_heads,
    half,
    value_dim,
    query_row,
    query_head,
    key_row,
    key_head,
    value_row,
    value_head,
    turn_row,
    keys_head,
    values_head,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    VALUE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    query_programs = tl.cdiv(heads, HEADS)
    at = tl.arange(0, HALF)
    cos += row * turn_row
    sin += row * turn_row
    if tl.program_id(1) < query_programs:
        head = (tl.program_id(1) * HEADS + tl.arange(0, HEADS)).to(tl.int64)
        there = (head < heads)[:, None] & (at < half)[None, :]
        base = query + row * query_row
        first, second = _rotated(base, head, at, there, half, query_head, cos, sin)
        out = rotated + (row * heads + head[:, None]) * (2 * half) + at[None, :]
        tl.store(out, first, mask=there)
        tl.store(out + half, second, mask=there)
        return
    slot = tl.load(slots + row)
    if slot < 0:
        return
    head = ((tl.program_id(1) - query_programs) * HEADS + tl.arange(0, HEADS)).to(tl.int64)
    there = (head < kv_heads)[:, None] & (at < half)[None, :]
    first, second = _rotated(key + row * key_row, head, at, there, half, key_head, cos, sin)
    out = keys + head[:, None] * keys_head + slot * (2 * half) + at[None, :]
    tl.store(out, first, mask=there)
    tl.store(out + half, second, mask=there)
    at_value = tl.arange(0, VALUE)
    there = (head < kv_heads)[:, None] & (at_value < value_dim)[None, :]
    source = value + row * value_row + head[:, None] * value_head + at_value[None, :]
    target = values + head[:, None] * values_head + slot * value_dim + at_value[None, :]
    tl.store(target, tl.load(source, mask=there, other=0.0), mask=there)


def rotate_and_write(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
) -> torch.Tensor:
    """Rotated query [rows, heads, head_dim], contiguous; rotated keys and values go into the cache.

    Args:
        query: [rows, heads, head_dim]; like key and value, a head's numbers side by side, heads
            and rows may lie apart.
        key: [rows, kv_heads, head_dim].
        value: [rows, kv_heads, value_dim].
        cos, sin: [rows, head_dim], of the dtype of ``query``.
        keys, values: the cache, [kv_heads, slots, head_dim or value_dim], contiguous.
        slots: int64 [rows], no two alike; rows with a negative one are not written.
    """
    (rows, heads, size), (_, kv_heads, value_dim) = query.shape, value.shape
    assert query.stride(2) == key.stride(2) == value.stride(2) == 1
    assert keys.is_contiguous() and values.is_contiguous()
    assert cos.shape == sin.shape == (rows, size) and cos.stride() == sin.stride()
    rotated = torch.empty(rows, heads, size, dtype=query.dtype, device=query.device)
    if rows == 0:
        return rotated
    half = size // 2
    _rotate_and_write[rows, triton.cdiv(heads, HEADS) + triton.cdiv(kv_heads, HEADS)](
        query,
        key,
        value,
        cos,
        sin,
        slots,
        rotated,
        keys,
        values,
        heads,
        kv_heads,
        half,
        value_dim,
        query.stride(0),
        query.stride(1),
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        cos.stride(0),
        keys.stride(0),
        values.stride(0),
        HEADS=HEADS,
        HALF=triton.next_power_of_2(half),
        VALUE=triton.next_power_of_2(value_dim),
        enable_fp_fusion=False,
    )
    return rotated


def variants() -> Iterator[Variant]:
    """Every head size of each dtype."""
    for dtype in ELEMENTS:
        element = POINTERS[dtype]
        for size in (64, 128, 256):
            yield Variant(
                label=f"{str(dtype).removeprefix('torch.')} {size}",
                kernel=_rotate_and_write,
                signature={
                    **dict.fromkeys(("query", "key", "value", "cos", "sin"), element),
                    "slots": "*i64",
                    **dict.fromkeys(("rotated", "keys", "values"), element),
                    **dict.fromkeys(("heads", "kv_heads", "half", "value_dim"), "i32"),
                    **dict.fromkeys(("query_row", "query_head", "key_row", "key_head"), "i32"),
                    **dict.fromkeys(("value_row", "value_head", "turn_row"), "i32"),
                    **dict.fromkeys(("keys_head", "values_head"), "i32"),
                },
                constants={"HEADS": HEADS, "HALF": size // 2, "VALUE": size},
                options={"enable_fp_fusion": False},
            )
