"""Choosing a token for every row of logits on the device: penalties, filters, noise, argmax.

The twin of ``lorax_spec.kernels.sampling_rows``, which says what is done and in which order.  Four
launches, whose grids depend on the number of rows and the vocabulary only:

- scan, (rows, splits): the raw logits' logsumexp; penalties and temperature; of rows without
  filters noise and argmax, of the others the scores are written down;
- filters (``filters.py``), (rows): those scores' filters;
- draw, (rows, splits): their noise and argmax;
- combine, (rows): the splits' results.

Scores before noise are bit-equal to float32 arithmetic of the same order, since nothing is fused
and division is exact to the last place; for noise and filters see ``philox.py``, ``filters.py``.
Splits depend on the vocabulary alone, so a row has the same bits in any batch.  Of equal scores the
lowest token wins.  Rows with ``source`` -1 are left out: their outputs stay as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from lorax_spec.kernels.sampling_rows import COLDEST, MAX_EXTRA, SamplingRows
from lorax_spec.kernels.triton.filters import filter_scores, filters_of
from lorax_spec.kernels.triton.penalties import banned, biased, punished
from lorax_spec.kernels.triton.philox import gumbel_of
from lorax_spec.kernels.triton.variant import POINTERS, Variant

BLOCK = 1024
#: Blocks of one program.
PER_SPLIT = 2
BIAS_CHUNK = 64
_COLDEST = tl.constexpr(COLDEST)


@dataclass(frozen=True)
class Workspace:
    """Room for the launches of ``sample``, and what they choose.

    ``tops``, ``sums``, ``bests`` float32 and ``ids`` int32 [rows, splits] are of each split;
    ``scores`` float32 [rows, vocabulary], or None where no row may have filters.
    ``tokens`` int64 [rows] and ``logprobs`` float32 [rows] are the results.
    """

    tops: torch.Tensor
    sums: torch.Tensor
    bests: torch.Tensor
    ids: torch.Tensor
    scores: torch.Tensor | None
    tokens: torch.Tensor
    logprobs: torch.Tensor
    block: int


def workspace(
    rows: int, vocabulary: int, device: torch.device, filters: bool = True, block: int = BLOCK
) -> Workspace:
    """For up to ``rows`` rows; ``filters`` says whether some may have top-k, top-p and the like."""
    splits = triton.cdiv(vocabulary, block * PER_SPLIT)
    tops, sums, bests = torch.empty(3, rows, splits, dtype=torch.float32, device=device)
    return Workspace(
        tops,
        sums,
        bests,
        ids=torch.empty(rows, splits, dtype=torch.int32, device=device),
        scores=torch.empty(rows, vocabulary, device=device) if filters else None,
        tokens=torch.full((rows,), -1, dtype=torch.int64, device=device),
        logprobs=torch.zeros(rows, dtype=torch.float32, device=device),
        block=block,
    )


@triton.jit
def _better(best, token, scores, first):
    """The best score so far and its token; ``token`` stays where a later one is only equal."""
    value, index = tl.max(scores, 0, return_indices=True, return_indices_tie_break_left=True)
    return tl.where(value > best, value, best), tl.where(value > best, first + index, token)


@triton.jit
def _scan_kernel(
    tops, sums, bests, ids, scores_out, logits, logits_row,
    source, temperature, top_k, top_p, min_p, typical_p, repetition, frequency, presence,
    seeds, positions, history, seen, counts, extra_tokens, extra_counts,
    bias_starts, bias_tokens, bias_values, mask, masks, vocabulary, mask_words, splits,
    FILTERS: tl.constexpr, PER_SPLIT: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
    EXTRA: tl.constexpr,
):  # fmt: skip
    row, split = tl.program_id(0), tl.program_id(1)
    place = tl.load(source + row)
    if place < 0:
        return
    base = logits + place.to(tl.int64) * logits_row
    heat = tl.load(temperature + row)
    divisor = tl.maximum(heat, _COLDEST)
    filters = heat < 0.0
    if FILTERS:
        filters = filters_of(row, vocabulary, temperature, top_k, top_p, min_p, typical_p)
    slot, mask_slot = tl.load(history + row).to(tl.int64), tl.load(mask + row).to(tl.int64)
    bias_start, bias_stop = tl.load(bias_starts + row), tl.load(bias_starts + row + 1)
    seed, position = tl.load(seeds + row), tl.load(positions + row)
    top, total = tl.full((), -float("inf"), tl.float32), tl.full((), 0.0, tl.float32)
    best, token = top, split * PER_SPLIT * BLOCK
    for at in range(PER_SPLIT):
        first = (split * PER_SPLIT + at) * BLOCK
        tokens = first + tl.arange(0, BLOCK)
        inside = tokens < vocabulary
        scores = tl.load(base + tokens, mask=inside, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(scores))
        finite = tl.where(higher == -float("inf"), 0.0, higher)
        total = total * tl.exp(top - finite) + tl.sum(tl.exp(scores - finite))
        top = higher
        if mask_slot >= 0:
            scores = banned(scores, tokens, inside, masks + mask_slot * mask_words)
        if bias_start < bias_stop:
            scores = biased(scores, tokens, first, bias_start, bias_stop, bias_tokens,
                            bias_values, BLOCK, CHUNK)  # fmt: skip
        if slot >= 0:
            scores = punished(
                scores, tokens, inside, seen + slot * vocabulary, counts + slot * vocabulary,
                extra_tokens + row * EXTRA, tl.load(extra_counts + row), tl.load(repetition + row),
                tl.load(frequency + row), tl.load(presence + row),
            )  # fmt: skip
        if heat > 0.0:
            scores = tl.div_rn(scores, divisor)
        if filters:
            tl.store(scores_out + row.to(tl.int64) * vocabulary + tokens, scores, mask=inside)
        else:
            if heat > 0.0:
                scores += gumbel_of(seed, position, first, BLOCK)
            best, token = _better(best, token, scores, first)
    out = row * splits + split
    tl.store(tops + out, top)
    tl.store(sums + out, total)
    tl.store(bests + out, best)
    tl.store(ids + out, token)


@triton.jit
def _draw_kernel(
    bests, ids, scores_in, source, temperature, top_k, top_p, min_p, typical_p, seeds, positions,
    vocabulary, splits, PER_SPLIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, split = tl.program_id(0), tl.program_id(1)
    if tl.load(source + row) < 0:
        return
    if filters_of(row, vocabulary, temperature, top_k, top_p, min_p, typical_p) == 0:
        return
    base = scores_in + row.to(tl.int64) * vocabulary
    seed, position = tl.load(seeds + row), tl.load(positions + row)
    best, token = tl.full((), -float("inf"), tl.float32), split * PER_SPLIT * BLOCK
    for at in range(PER_SPLIT):
        first = (split * PER_SPLIT + at) * BLOCK
        tokens = first + tl.arange(0, BLOCK)
        scores = tl.load(base + tokens, mask=tokens < vocabulary, other=-float("inf"))
        if tl.max(scores) > -float("inf"):
            scores += gumbel_of(seed, position, first, BLOCK)
            best, token = _better(best, token, scores, first)
    tl.store(bests + row * splits + split, best)
    tl.store(ids + row * splits + split, token)


@triton.jit
def _combine_kernel(
    tokens, logprobs, tops, sums, bests, ids, logits, logits_row, source, splits,
    SPLITS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    place = tl.load(source + row)
    if place < 0:
        return
    lanes = tl.arange(0, SPLITS)
    at, inside = row * splits + lanes, lanes < splits
    part = tl.load(tops + at, mask=inside, other=-float("inf"))
    top = tl.max(part)
    total = tl.sum(tl.load(sums + at, mask=inside, other=0.0) * tl.exp(part - top))
    best = tl.load(bests + at, mask=inside, other=-float("inf"))
    _, winner = tl.max(best, 0, return_indices=True, return_indices_tie_break_left=True)
    token = tl.load(ids + row * splits + winner)
    raw = tl.load(logits + place.to(tl.int64) * logits_row + token).to(tl.float32)
    tl.store(tokens + row, token.to(tl.int64))
    tl.store(logprobs + row, raw - top - tl.log(total))


def sample(
    logits: torch.Tensor, rows: SamplingRows, room: Workspace
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens int64 [rows] and their log-probabilities float32 [rows], which lie in ``room``.

    ``logits`` [any, vocabulary] float32, bfloat16 or float16, contiguous within a row.  ``room`` is
    of this vocabulary and holds the rows; where it was made without filters, rows' filters are
    not looked at.
    """
    vocabulary, (count, splits) = logits.shape[1], (len(rows), room.ids.shape[1])
    assert logits.stride(1) == 1 and splits == triton.cdiv(vocabulary, room.block * PER_SPLIT)
    assert count <= room.tokens.shape[0]
    filters = (rows.temperature, rows.top_k, rows.top_p, rows.min_p, rows.typical_p)
    scores = room.tops if room.scores is None else room.scores
    _scan_kernel[(count, splits)](
        room.tops, room.sums, room.bests, room.ids, scores, logits, logits.stride(0), rows.source,
        *filters, rows.repetition, rows.frequency, rows.presence, rows.seeds, rows.positions,
        rows.history, rows.seen, rows.counts, rows.extra_tokens, rows.extra_counts,
        rows.bias_starts, rows.bias_tokens, rows.bias_values, rows.mask, rows.masks, vocabulary,
        rows.masks.shape[1], splits, FILTERS=room.scores is not None, PER_SPLIT=PER_SPLIT,
        BLOCK=room.block, CHUNK=BIAS_CHUNK, EXTRA=MAX_EXTRA, enable_fp_fusion=False,
    )  # fmt: skip
    if room.scores is not None:
        filter_scores(room.scores[:count], rows)
        _draw_kernel[(count, splits)](
            room.bests, room.ids, scores, rows.source, *filters, rows.seeds, rows.positions,
            vocabulary, splits, PER_SPLIT=PER_SPLIT, BLOCK=room.block, enable_fp_fusion=False,
        )  # fmt: skip
    _combine_kernel[(count,)](
        room.tokens, room.logprobs, room.tops, room.sums, room.bests, room.ids, logits,
        logits.stride(0), rows.source, splits, SPLITS=triton.next_power_of_2(splits),
        enable_fp_fusion=False,
    )  # fmt: skip
    return room.tokens[:count], room.logprobs[:count]


def variants() -> Iterator[Variant]:
    filters = dict.fromkeys(("temperature", "top_p", "min_p", "typical_p"), "*fp32")
    filters = {"source": "*i32", "top_k": "*i32", **filters}
    penalties = dict.fromkeys(("repetition", "frequency", "presence", "bias_values"), "*fp32")
    tables = ("history", "extra_tokens", "extra_counts", "bias_starts", "bias_tokens", "mask")
    noise = {"seeds": "*i64", "positions": "*i64"}
    parts = {"tops": "*fp32", "sums": "*fp32", "bests": "*fp32", "ids": "*i32"}
    sizes = {"vocabulary": "i32", "splits": "i32"}
    blocks = {"PER_SPLIT": PER_SPLIT, "BLOCK": BLOCK}
    options = {"enable_fp_fusion": False}

    def of(kernel: Any, label: str, types: dict[str, str], constants: dict[str, Any]) -> Variant:
        ordered = {name: types[name] for name in kernel.arg_names if name in types}
        return Variant(label, kernel, ordered, constants, options=options)

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        raw = {"logits": POINTERS[dtype], "logits_row": "i32"}
        scan = {
            **parts, **raw, **filters, **penalties, **dict.fromkeys(tables, "*i32"), **noise,
            **sizes, "scores_out": "*fp32", "seen": "*i1", "counts": "*fp32", "masks": "*i32",
            "mask_words": "i32",
        }  # fmt: skip
        for filtered in (False, True):
            constants = {"FILTERS": filtered, "CHUNK": BIAS_CHUNK, "EXTRA": MAX_EXTRA, **blocks}
            yield of(_scan_kernel, f"{name} filters={filtered}", scan, constants)
        results = {"tokens": "*i64", "logprobs": "*fp32", "source": "*i32", "splits": "i32"}
        for splits in (16, 64, 128):
            constants = {"SPLITS": splits}
            yield of(_combine_kernel, f"{name} {splits}", {**parts, **raw, **results}, constants)
    draw = {**parts, **filters, **noise, **sizes, "scores_in": "*fp32"}
    yield of(_draw_kernel, "", draw, blocks)
