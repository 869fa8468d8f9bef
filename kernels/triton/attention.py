"""Paged attention over ragged query rows and draft trees, each sequence's keys read once.

Semantics and reference: ``lorax_spec.kernels.ragged_attention``; which row sees which keys:
``RaggedRows``.  A program takes a tile of query rows of one sequence, times the query heads that
share one kv head, and walks the keys in blocks from key 0 on by the online softmax (Milakov and
Gimelshein 2018, arXiv 1805.02867).  Blocks that lie beyond what any row of the tile sees, or before
all their windows, are not read.

Long contexts of few sequences are cut into parts that programs of their own take (Dao, Haziza,
Massa and Sizov 2023, "Flash-Decoding"); a second kernel combines these in order.

Fast: the parts are equal shares of what the tile sees, and tiles are as high as the longest query
asks for.  Exact (``chunk`` given): parts are chunks of that many keys, counted from key 0, and the
tile is always the same, so a row's sums are the same whatever rows are beside it and however many
of its own sequence's are in the step.  A block that a row does not see adds exact zeros to its
sums, a chunk likewise; so skipping them for some tiles and not for others changes no bit.  Chunks
are combined one after another by ``fold``, whether one program takes them all or each has its own;
multiply-adds are spelt out there, lest the compiler fuse them in one kernel and not in the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton

from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.kernels.ragged import RaggedRows
from lorax_spec.kernels.triton import attention_split
from lorax_spec.kernels.triton.attention_split import Workspace, combine
from lorax_spec.kernels.triton.attention_tile import attend
from lorax_spec.kernels.triton.variant import INTERPRETED, POINTERS, Variant

LOG2E = 1.4426950408889634


@dataclass(frozen=True)
class Tile:
    """What a program takes at once: ``queries`` (row, head) pairs against ``keys`` keys."""

    queries: int
    keys: int
    warps: int
    stages: int


def tile_of(
    group: int, key_dim: int, value_dim: int, dtype: torch.dtype, longest_query: int | None
) -> Tile:
    """The tile for heads of this kind; ``longest_query`` None for the one that is always the same.

    16 pairs are what a product on tensor cores takes at least, enough for decoding; 64 are those
    of a warp group, for drafts; 128 halve the reads of a long prompt's keys.  Sizes follow
    registers and shared memory as compiled for sm_90, not yet measurements.  The load of a key
    waits for that of its block's number, so it takes five stages to have two blocks under way.
    """
    if dtype == torch.float32:  # without tensor cores; larger tiles do not fit the registers
        return Tile(max(16, triton.next_power_of_2(group)), 32, 4, 2)
    wide = max(key_dim, value_dim) > 128
    if longest_query is None:
        queries = 64
    else:
        wanted = longest_query * group
        queries = 16 if wanted <= 16 else 64 if wanted <= 64 or wide else 128
    queries = max(queries, triton.next_power_of_2(group))
    keys = 32 if wide else 64
    if queries <= 64 and not wide:
        # Two of the programs fit a multiprocessor if only the block table is read ahead.
        return Tile(queries, keys, 4, 5 if queries == 16 else 3)
    return Tile(queries, keys, 8, 5)


def chunks_of(longest_context: int, chunk: int) -> int:
    """How many chunks the longest context has: ``splits`` for one program each."""
    return -(-longest_context // chunk)


def paged_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    rows: RaggedRows,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    splits: int = 1,
    chunk: int | None = None,
    out: torch.Tensor | None = None,
    workspace: Workspace | None = None,
) -> torch.Tensor:
    """Attend every row of ``query`` that belongs to a sequence; other rows are not written.

    Args:
        query: [heads, rows, key_dim], rotated; any strides but the last.
        keys, values: one layer's caches [kv_heads, slots, dim], this step's rows written.
        sinks: one extra logit per head [heads] that takes weight and adds no value.
        splits: programs that share a tile's keys.
        chunk: the same bits whatever else is in the step.  Keys per part, a multiple of the
            tile's; ``splits`` is then 1 or ``chunks_of(rows.longest_context, chunk)``, with the
            same bits.
        workspace: room for ``splits`` parts of ``rows``; allocated if not given.

    Returns:
        [rows, heads, value_dim] in query's dtype: ``out``, or a new tensor.
    """
    heads, count, key_dim = query.shape
    kv_heads, _, value_dim = values.shape
    group = heads // kv_heads
    tile = tile_of(
        group, key_dim, value_dim, keys.dtype, rows.longest_query if chunk is None else None
    )
    if chunk is not None:
        if chunk % tile.keys != 0:
            raise ValueError(f"chunk {chunk} is no multiple of the {tile.keys} keys of a tile")
        if splits not in (1, chunks_of(rows.longest_context, chunk)):
            raise ValueError(f"{splits} splits for chunks of {chunk}: one, or one for each chunk")
    if query.stride(-1) != 1:
        query = query.contiguous()
    if keys.stride(-1) != 1 or values.stride(-1) != 1:
        raise ValueError("the dimensions of a cached head lie next to each other")
    if out is None:
        out = query.new_empty(count, heads, value_dim)
    parts = workspace
    if splits > 1 and parts is None:
        parts = attention_split.workspace(count, heads, value_dim, splits, query.device)

    if softcap is None:
        factor, cap = scale * LOG2E, 0.0
    else:  # tanh(x) = 1 - 2 / (2 ** (2 * LOG2E * x) + 1)
        factor, cap = 2 * LOG2E * scale / softcap, softcap * LOG2E
    grid = (triton.cdiv(rows.longest_query, tile.queries // group), kv_heads)
    attend[(*grid, len(rows.known) * splits)](
        query,
        keys,
        values,
        out,
        sinks,
        None if parts is None else parts.tops,
        None if parts is None else parts.weights,
        None if parts is None else parts.sums,
        rows.row_starts,
        rows.draft_starts,
        rows.known,
        rows.positions,
        rows.ancestors,
        rows.block_tables,
        factor,
        cap,
        LOG2E,
        window or 0,
        splits,
        0 if parts is None else parts.tops.shape[1],
        query.stride(0),
        query.stride(1),
        keys.stride(0),
        keys.stride(1),
        values.stride(0),
        values.stride(1),
        rows.block_tables.stride(0),
        out.stride(0),
        out.stride(1),
        **_constants(
            tile,
            (group, key_dim, value_dim),
            chunk or 0,
            windowed=window is not None,
            capped=softcap is not None,
            sunk=sinks is not None,
            split=splits > 1,
        ),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    if splits > 1:
        assert parts is not None
        combine(out, parts, splits, rows.row_starts, sinks, LOG2E)
    return out


def _constants(
    tile: Tile,
    shape: tuple[int, int, int],
    chunk: int = 0,
    *,
    windowed: bool = False,
    capped: bool = False,
    sunk: bool = False,
    split: bool = False,
) -> dict[str, int | bool]:
    """Of ``attend``; ``shape`` is group, key_dim, value_dim."""
    group, key_dim, value_dim = shape
    return {
        "GROUP": group,
        "KEY_DIM": key_dim,
        "KEY_PAD": max(16, triton.next_power_of_2(key_dim)),
        "VALUE_DIM": value_dim,
        "VALUE_PAD": max(16, triton.next_power_of_2(value_dim)),
        "QUERIES": tile.queries,
        "KEYS": tile.keys,
        "CHUNK": chunk,
        "BLOCK": BLOCK_SIZE,
        "WINDOWED": windowed,
        "CAPPED": capped,
        "SUNK": sunk,
        "SPLIT": split,
        "WIDEN": INTERPRETED,
    }


def variants() -> Iterator[Variant]:
    """Decode, draft and prompt tiles of usual models; fast, split and exact."""
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    llama, wide, narrow = (4, 128, 128), (2, 256, 256), (8, 64, 64)
    for longest_query in (1, 8, 512):
        yield _variant(bf16, llama, longest_query)
        yield _variant(bf16, narrow, longest_query, windowed=True, sunk=True)
    for longest_query in (1, 512):
        yield _variant(bf16, wide, longest_query, windowed=True, capped=True)
        yield _variant(fp16, llama, longest_query)
        yield _variant(bf16, (1, 128, 128), longest_query)
        yield _variant(bf16, (7, 80, 96), longest_query)
    yield _variant(bf16, llama, 1, split=True)
    yield _variant(bf16, wide, 8, windowed=True, capped=True, split=True)
    for split in (False, True):
        yield _variant(bf16, llama, None, 512, split=split)
        yield _variant(bf16, wide, None, 512, split=split)
    yield _variant(fp32, llama, 512)
    yield _variant(fp32, (8, 32, 32), None, 512)


def _variant(
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    longest_query: int | None,
    chunk: int = 0,
    *,
    windowed: bool = False,
    capped: bool = False,
    sunk: bool = False,
    split: bool = False,
) -> Variant:
    tile = tile_of(*shape, dtype, longest_query)
    constants: dict[str, int | bool | None] = {
        **_constants(tile, shape, chunk, windowed=windowed, capped=capped, sunk=sunk, split=split)
    }
    pointer = POINTERS[dtype]
    types = dict.fromkeys(("query", "keys", "values", "out"), pointer)
    types |= {"sinks": pointer, "tops": "*fp32", "weights": "*fp32", "sums": "*fp32"}
    absent = (() if sunk else ("sinks",)) + (() if split else ("tops", "weights", "sums"))
    integers = ("row_starts", "draft_starts", "knowns", "positions")
    types |= dict.fromkeys(integers, "*i32") | {"ancestors": "*i64", "tables": "*i32"}
    types |= dict.fromkeys(("scale", "cap", "log2e"), "fp32")
    given = {name for name in attend.arg_names if name not in constants and name not in types}
    types |= dict.fromkeys(given, "i32")
    signature = {name: types[name] for name in attend.arg_names if name in types}
    for name in absent:
        del signature[name]
        constants[name] = None
    notes = {"window": windowed, "cap": capped, "sinks": sunk, "split": split, "exact": chunk > 0}
    words = [pointer[1:], *map(str, shape), f"tile {tile.queries}x{tile.keys}"]
    label = " ".join([*words, *(note for note, holds in notes.items() if holds)])
    return Variant(label, attend, signature, constants, tile.warps, tile.stages)
