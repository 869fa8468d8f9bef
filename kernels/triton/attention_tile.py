"""The attention of one tile of query rows, as ``attention.py`` launches it."""

from __future__ import annotations

import triton
import triton.language as tl

from lorax_spec.kernels.triton.attention_split import finish, fold


@triton.jit
def _product(a, b, added, WIDEN: tl.constexpr):
    """``a @ b + added`` in float32.

    The interpreter knows no products of bfloat16, and numpy's in float32 depend on a row's place
    among the others: with ``WIDEN`` they are in float64, whose rounding does not show.
    """
    if WIDEN:
        wide = tl.dot(a.to(tl.float32).to(tl.float64), b.to(tl.float32).to(tl.float64))
        return wide.to(tl.float32) + added
    return tl.dot(a, b, added, input_precision="ieee")


@triton.jit
def _walk(
    q, top, weight, total,
    keys, values, table, node_positions,
    start, stop, limit, known, bound, lowest, masks,
    stride_key, stride_value, scale, cap,
    NODES: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr,
    KEY_DIM: tl.constexpr, KEY_PAD: tl.constexpr,
    VALUE_DIM: tl.constexpr, VALUE_PAD: tl.constexpr,
    KEYS: tl.constexpr, BLOCK: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Add the keys ``start..stop`` to a tile's softmax; with ``NODES`` a draft may be among them.

    ``start`` is a multiple of ``KEYS``; that of a part or a walk without keys is ``stop`` or more.
    ``limit`` keys exist.  A row sees the keys below its ``bound``, and by its mask nodes from key
    ``known`` on; of those only what is at position ``lowest`` or later.
    """
    key_dims = tl.arange(0, KEY_PAD)
    value_dims = tl.arange(0, VALUE_PAD)
    for block_of_keys in range(start // KEYS, tl.cdiv(stop, KEYS)):
        key = block_of_keys * KEYS + tl.arange(0, KEYS)
        exists = key < limit
        block = tl.load(table + key // BLOCK, mask=exists, other=0)
        slot = block.to(tl.int64) * BLOCK + key % BLOCK
        key_mask = exists[:, None]
        if KEY_DIM < KEY_PAD:
            key_mask = key_mask & (key_dims < KEY_DIM)[None, :]
        k = tl.load(keys + slot[:, None] * stride_key + key_dims[None, :], mask=key_mask, other=0.0)
        scores = tl.zeros((top.shape[0], KEYS), tl.float32)
        scores = _product(q, tl.trans(k), scores, WIDEN) * scale
        if CAPPED:
            scores = cap * (1.0 - 2.0 / (tl.exp2(tl.minimum(scores, 64.0)) + 1.0))

        visible = key[None, :] < bound[:, None]
        if NODES:
            node = key - known
            bit = tl.minimum(tl.maximum(node, 0), 63).to(tl.int64)
            seen = ((masks[:, None] >> bit[None, :]) & 1) != 0
            visible = visible | (seen & ((node >= 0) & (node < 64))[None, :])
        if WINDOWED:
            position = key
            if NODES:
                is_node = (key >= known) & exists
                position = tl.load(node_positions + (key - known), mask=is_node, other=0)
                position = tl.where(is_node, position, key)
            visible = visible & (position[None, :] >= lowest[:, None])
        scores = tl.where(visible & exists[None, :], scores, float("-inf"))

        peak = tl.maximum(top, tl.max(scores, 1))
        level = tl.where(peak == float("-inf"), 0.0, peak)
        shrink = tl.exp2(top - level)
        p = tl.exp2(scores - level[:, None])
        weight = tl.fma(weight, shrink, tl.sum(p, 1))
        value_mask = exists[:, None]
        if VALUE_DIM < VALUE_PAD:
            value_mask = value_mask & (value_dims < VALUE_DIM)[None, :]
        v = tl.load(
            values + slot[:, None] * stride_value + value_dims[None, :], mask=value_mask, other=0.0
        )
        total = _product(p.to(v.dtype), v, total * shrink[:, None], WIDEN)
        top = peak
    return top, weight, total


@triton.jit
def _part(
    q, keys, values, table, node_positions,
    start, stop, limit, nodes_from, known, bound, lowest, masks,
    stride_key, stride_value, scale, cap,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr,
    KEY_DIM: tl.constexpr, KEY_PAD: tl.constexpr,
    VALUE_DIM: tl.constexpr, VALUE_PAD: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, BLOCK: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """A tile's softmax over the keys ``start..stop``: top, weight, total."""
    top = tl.full((QUERIES,), float("-inf"), tl.float32)
    weight = tl.zeros((QUERIES,), tl.float32)
    total = tl.zeros((QUERIES, VALUE_PAD), tl.float32)
    top, weight, total = _walk(
        q, top, weight, total, keys, values, table, node_positions,
        start, tl.minimum(stop, nodes_from), limit, known, bound, lowest, masks,
        stride_key, stride_value, scale, cap,
        False, WINDOWED, CAPPED, KEY_DIM, KEY_PAD, VALUE_DIM, VALUE_PAD, KEYS, BLOCK, WIDEN,
    )  # fmt: skip
    return _walk(
        q, top, weight, total, keys, values, table, node_positions,
        tl.maximum(start, nodes_from), stop, limit, known, bound, lowest, masks,
        stride_key, stride_value, scale, cap,
        True, WINDOWED, CAPPED, KEY_DIM, KEY_PAD, VALUE_DIM, VALUE_PAD, KEYS, BLOCK, WIDEN,
    )  # fmt: skip


@triton.jit
def attend(
    query, keys, values, out, sinks, tops, weights, sums,
    row_starts, draft_starts, knowns, positions, ancestors, tables,
    scale, cap, log2e, window, splits, count,
    stride_query_head, stride_query_row, stride_key_head, stride_key, stride_value_head,
    stride_value, stride_table, stride_out_row, stride_out_head,
    GROUP: tl.constexpr, KEY_DIM: tl.constexpr, KEY_PAD: tl.constexpr,
    VALUE_DIM: tl.constexpr, VALUE_PAD: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr, SUNK: tl.constexpr, SPLIT: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """One tile of ``QUERIES`` (row, head) pairs; grid (tiles, kv_heads, sequences * splits)."""
    rows: tl.constexpr = QUERIES // GROUP
    sequence = tl.program_id(2) // splits
    split = tl.program_id(2) % splits
    kv_head = tl.program_id(1)
    row_end = tl.load(row_starts + sequence + 1)
    first_row = tl.load(row_starts + sequence) + tl.program_id(0) * rows
    if first_row >= row_end:
        return
    draft = tl.load(draft_starts + sequence)
    known = tl.load(knowns + sequence)

    pair = tl.arange(0, QUERIES)
    row = first_row + pair // GROUP
    head = kv_head * GROUP + pair % GROUP
    valid = (pair < rows * GROUP) & (row < row_end)
    position = tl.load(positions + row, mask=valid, other=0)
    masks = tl.load(ancestors + row, mask=valid, other=0)
    bound = tl.where(row >= draft, known, position + 1)
    bound = tl.where(valid, bound, 0)

    # Known tokens come first, in the order of their positions, and no node is before position
    # ``known``.  (A minimum over the tile would do too, but loops from a reduction's result on
    # lose what Triton knows about the alignment of their addresses.)
    next_row = tl.minimum(first_row + rows, row_end)
    end = tl.load(positions + next_row - 1) + 1
    nodes_from = tl.cdiv(end, KEYS) * KEYS
    if next_row > draft:
        end = known + row_end - draft
        nodes_from = known // KEYS * KEYS
    begin = 0
    lowest = position - window + 1
    if WINDOWED:
        first_position = tl.minimum(tl.load(positions + first_row), known)
        begin = tl.maximum(first_position - window + 1, 0) // KEYS * KEYS

    dims = tl.arange(0, KEY_PAD)
    q = tl.load(
        query
        + head.to(tl.int64)[:, None] * stride_query_head
        + row.to(tl.int64)[:, None] * stride_query_row
        + dims[None, :],
        mask=valid[:, None] & (dims < KEY_DIM)[None, :],
        other=0.0,
    )
    keys += kv_head.to(tl.int64) * stride_key_head
    values += kv_head.to(tl.int64) * stride_value_head
    table = tables + sequence.to(tl.int64) * stride_table

    node_positions = positions + draft

    if CHUNK > 0 and not SPLIT:
        top = tl.full((QUERIES,), float("-inf"), tl.float32)
        weight = tl.zeros((QUERIES,), tl.float32)
        total = tl.zeros((QUERIES, VALUE_PAD), tl.float32)
        for chunk in range(begin // CHUNK, tl.cdiv(end, CHUNK)):
            start = tl.maximum(chunk * CHUNK, begin)
            other_top, other_weight, other_total = _part(
                q, keys, values, table, node_positions,
                start, tl.minimum((chunk + 1) * CHUNK, end), end, nodes_from, known, bound, lowest,
                masks, stride_key, stride_value, scale, cap, WINDOWED, CAPPED,
                KEY_DIM, KEY_PAD, VALUE_DIM, VALUE_PAD, QUERIES, KEYS, BLOCK, WIDEN,
            )  # fmt: skip
            top, weight, total = fold(top, weight, total, other_top, other_weight, other_total)
    else:
        if CHUNK > 0:
            start = split * CHUNK
            stop = start + CHUNK
        else:
            share = tl.cdiv(tl.cdiv(end - begin, splits), KEYS) * KEYS
            start = begin + split * share
            stop = start + share
        top, weight, total = _part(
            q, keys, values, table, node_positions,
            tl.maximum(start, begin), tl.minimum(stop, end), end, nodes_from, known, bound, lowest,
            masks, stride_key, stride_value, scale, cap, WINDOWED, CAPPED,
            KEY_DIM, KEY_PAD, VALUE_DIM, VALUE_PAD, QUERIES, KEYS, BLOCK, WIDEN,
        )  # fmt: skip

    dims = tl.arange(0, VALUE_PAD)
    held = (dims < VALUE_DIM)[None, :]
    if SPLIT:
        heads = tl.num_programs(1) * GROUP
        at = (split.to(tl.int64) * count + row) * heads + head
        tl.store(tops + at, top, mask=valid)
        seen = valid & (top > float("-inf"))
        tl.store(weights + at, weight, mask=seen)
        tl.store(sums + at[:, None] * VALUE_DIM + dims[None, :], total, mask=seen[:, None] & held)
    else:
        sink = top
        if SUNK:
            sink = tl.load(sinks + head, mask=valid, other=0.0).to(tl.float32) * log2e
        result = finish(top, weight, total, sink, valid, SUNK)
        target = out + row.to(tl.int64)[:, None] * stride_out_row + head[:, None] * stride_out_head
        result = result.to(out.dtype.element_ty)
        tl.store(target + dims[None, :], result, mask=valid[:, None] & held)
