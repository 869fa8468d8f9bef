"""Walking draft trees on the device: one program per sequence.

The twin of ``lorax_spec.kernels.walk``, which says what is walked and what comes out.  A program
holds its draft's parents and tokens in one vector each and takes one turn per node it goes through;
nothing is compared but integers, so it gives exactly what the reference gives.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.kernels.triton.variant import Variant
from lorax_spec.kernels.walk import MAX_NODES, DraftRows, Walked

#: Lanes for a walk's tokens, one more than nodes.
LANES = 2 * MAX_NODES
END_LANES = 16


@triton.jit
def _walk_kernel(
    counts, tokens_out, logprobs_out, path, source, target,
    chosen, logprobs, first_rows, nodes, parents, tokens, remaining, heeds_end, ends, known,
    block_tables, end_count, table_row,
    NODES: tl.constexpr, LANES: tl.constexpr, ENDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0)
    first = tl.load(first_rows + sequence)
    used = first >= 0
    count = tl.where(used, tl.load(nodes + sequence), 0)
    limit = tl.load(remaining + sequence)
    heeds = tl.load(heeds_end + sequence) != 0
    lanes = tl.arange(0, NODES)
    parent = tl.load(parents + first + 1 + lanes, mask=lanes < count, other=-2)
    guess = tl.load(tokens + first + 1 + lanes, mask=lanes < count, other=0)
    # Lane d holds the node, after d turns; the root's is -1.
    turns = tl.arange(0, LANES)
    passed = tl.full((LANES,), -1, tl.int32)
    node, depth = tl.full((), -1, tl.int32), tl.full((), 0, tl.int32)
    going = used
    while going:
        token = tl.load(chosen + first + 1 + node)
        passed = tl.where(turns == depth, node, passed)
        depth += 1
        ended = depth >= limit
        if heeds:
            for at in range(0, end_count, ENDS):
                entries = at + tl.arange(0, ENDS)
                end = tl.load(ends + entries, mask=entries < end_count, other=-1)
                ended = ended | (tl.max((end == token).to(tl.int32)) > 0)
        children = (parent == node) & (guess == token)
        node = tl.max(tl.where(children, lanes, -1))
        going = (node >= 0) & (ended == 0)
    tl.store(counts + sequence, depth)
    out, chose = sequence * (NODES + 1) + turns, turns < depth
    rows = first + 1 + passed
    found = tl.load(chosen + rows, mask=chose, other=-1)
    tl.store(tokens_out + out, found, mask=turns <= NODES)
    likely = tl.load(logprobs + rows, mask=chose, other=0.0)
    tl.store(logprobs_out + out, likely, mask=turns <= NODES)
    # Turn d + 1 went through the path's node d, whose key belongs at known + d.
    step = turns - 1
    through = (turns > 0) & chose
    at, inside = sequence * NODES + step, (turns > 0) & (turns <= NODES)
    tl.store(path + at, tl.where(through, passed, -1), mask=inside)
    moves = through & (passed != step)
    start, table = tl.load(known + sequence), block_tables + sequence.to(tl.int64) * table_row
    here, there = start + passed, start + step
    old = tl.load(table + here // BLOCK, mask=moves, other=0).to(tl.int64) * BLOCK + here % BLOCK
    new = tl.load(table + there // BLOCK, mask=moves, other=0).to(tl.int64) * BLOCK + there % BLOCK
    tl.store(source + at, tl.where(moves, old, -1), mask=inside)
    tl.store(target + at, tl.where(moves, new, -1), mask=inside)


def walk(chosen: torch.Tensor, logprobs: torch.Tensor, drafts: DraftRows, walked: Walked) -> None:
    """``chosen`` int64 [rows] and ``logprobs`` float32 [rows], each row's token, become the walks
    of all of ``drafts``; every output of theirs is written, also where a sequence is not used."""
    _walk_kernel[(len(drafts),)](
        walked.counts, walked.tokens, walked.logprobs, walked.path, walked.source, walked.target,
        chosen, logprobs, drafts.first_rows, drafts.nodes, drafts.parents, drafts.tokens,
        drafts.remaining, drafts.heeds_end, drafts.ends, drafts.known, drafts.block_tables,
        drafts.ends.shape[0], drafts.block_tables.stride(0), NODES=MAX_NODES, LANES=LANES,
        ENDS=END_LANES, BLOCK=BLOCK_SIZE, num_warps=1,
    )  # fmt: skip


def variants() -> Iterator[Variant]:
    results = {"counts": "*i32", "tokens_out": "*i64", "logprobs_out": "*fp32", "path": "*i32"}
    moves = {"source": "*i64", "target": "*i64"}
    rows = {"chosen": "*i64", "logprobs": "*fp32", "first_rows": "*i32", "nodes": "*i32"}
    drafts = {"parents": "*i32", "tokens": "*i64", "remaining": "*i32", "heeds_end": "*i32"}
    places = {"ends": "*i64", "known": "*i32", "block_tables": "*i32"}
    sizes = {"end_count": "i32", "table_row": "i32"}
    signature = {**results, **moves, **rows, **drafts, **places, **sizes}
    constants = {"NODES": MAX_NODES, "LANES": LANES, "ENDS": END_LANES, "BLOCK": BLOCK_SIZE}
    yield Variant("", _walk_kernel, signature, constants, num_warps=1)
