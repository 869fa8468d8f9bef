"""top-k, top-p, typical-p and min-p without sorting: one program per row looks for a threshold.

Scores are compared as unsigned keys in the order of float32.  top-k looks for the largest key x
such that at least k scores have a key of x or more; top-p for the largest x such that the scores
from x on hold at least p of the probability, and keeps of those equal to x, in order of their
tokens, as many as begin before p is reached; typical-p does the same with keys of how near a
token's surprise is to the entropy.  Each search settles two bits of x per pass over the row, in 16
passes.  What is removed becomes minus infinity in place.

Sums run in an order given by BLOCK alone, so a row's result depends on nothing but the row, and a
larger x never has a larger sum.  top-k keeps exactly what the reference keeps; top-p, typical-p
and min-p may differ from it on a token whose place is within rounding of p (sums of float32
probabilities; for typical-p also in the order of tokens whose distances from the entropy differ by
less than the rounding of a logarithm).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from lorax_spec.kernels.sampling_rows import SamplingRows
from lorax_spec.kernels.triton.variant import Variant

BLOCK = 4096
WARPS = 16
COUNT = tl.constexpr(0)
LIKELY = tl.constexpr(1)
TYPICAL = tl.constexpr(2)


@triton.jit
def filters_of(row, vocabulary, temperature, top_k, top_p, min_p, typical_p):
    """Whether a row has any filter."""
    k = tl.load(top_k + row)
    cuts = ((k > 0) & (k < vocabulary)) | (tl.load(top_p + row) < 1.0)
    cuts = cuts | (tl.load(typical_p + row) < 1.0) | (tl.load(min_p + row) > 0.0)
    return cuts & (tl.load(temperature + row) > 0.0)


@triton.jit
def _keys_of(values):
    """uint32 in the order of the float32 values; both zeros have the same."""
    bits = tl.where(values == 0.0, 0.0, values).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) | -2147483648)).to(tl.uint32, bitcast=True)


@triton.jit
def _load(base, first, vocabulary, top, log_total, entropy,
          KIND: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Scores, their keys and what each adds to a sum."""
    tokens = first + tl.arange(0, BLOCK)
    scores = tl.load(base + tokens, mask=tokens < vocabulary, other=-float("inf"))
    weights = (tokens < vocabulary).to(tl.float32) if KIND == COUNT else tl.exp(scores - top)
    if KIND == TYPICAL:
        keys = _keys_of(-tl.abs((scores - top - log_total) + entropy))
    else:
        keys = _keys_of(scores)
    return scores, keys, weights


@triton.jit
def _search(base, vocabulary, goal, top, log_total, entropy,
            KIND: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """The largest key from which on the weights add up to ``goal`` or more; 0 if none does."""
    found, unit = tl.full((), 0, tl.uint32), tl.full((), 1 << 30, tl.uint32)
    for _step in range(16):
        one, two, three = found + unit, found + unit * 2, found + unit * 3
        from_one = tl.zeros((BLOCK,), tl.float32)
        from_two = tl.zeros((BLOCK,), tl.float32)
        from_three = tl.zeros((BLOCK,), tl.float32)
        for first in range(0, vocabulary, BLOCK):
            _, keys, weights = _load(base, first, vocabulary, top, log_total, entropy, KIND, BLOCK)
            from_one += tl.where(keys >= one, weights, 0.0)
            from_two += tl.where(keys >= two, weights, 0.0)
            from_three += tl.where(keys >= three, weights, 0.0)
        reached = (tl.sum(from_one) >= goal).to(tl.uint32)
        reached += (tl.sum(from_two) >= goal).to(tl.uint32)
        reached += (tl.sum(from_three) >= goal).to(tl.uint32)
        found += unit * reached
        unit = unit >> 2
    return found


@triton.jit
def _highest(base, vocabulary, BLOCK: tl.constexpr):
    """The highest score, or 0 if all are minus infinity."""
    lanes = tl.full((BLOCK,), -float("inf"), tl.float32)
    for first in range(0, vocabulary, BLOCK):
        tokens = first + tl.arange(0, BLOCK)
        scores = tl.load(base + tokens, mask=tokens < vocabulary, other=-float("inf"))
        lanes = tl.maximum(lanes, scores)
    top = tl.max(lanes)
    return tl.where(top == -float("inf"), 0.0, top)


@triton.jit
def _sums(base, vocabulary, top, BLOCK: tl.constexpr):
    """Sum of the weights, and of each times its logarithm."""
    totals = tl.zeros((BLOCK,), tl.float32)
    products = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, vocabulary, BLOCK):
        scores, _, weights = _load(base, first, vocabulary, top, 0.0, 0.0, LIKELY, BLOCK)
        totals += weights
        products += weights * tl.where(weights > 0.0, scores - top, 0.0)
    return tl.sum(totals), tl.sum(products)


@triton.jit
def _keep_best(base, vocabulary, k, BLOCK: tl.constexpr):
    least = _search(base, vocabulary, k.to(tl.float32), 0.0, 0.0, 0.0, COUNT, BLOCK)
    for first in range(0, vocabulary, BLOCK):
        tokens = first + tl.arange(0, BLOCK)
        _, keys, _ = _load(base, first, vocabulary, 0.0, 0.0, 0.0, COUNT, BLOCK)
        tl.store(base + tokens, -float("inf"), mask=(tokens < vocabulary) & (keys < least))
    # The passes that follow may give a score to another thread than the one that wrote it.
    tl.debug_barrier()


@triton.jit
def _keep_nucleus(base, vocabulary, p, KIND: tl.constexpr, BLOCK: tl.constexpr):
    top = _highest(base, vocabulary, BLOCK)
    total, products = _sums(base, vocabulary, top, BLOCK)
    log_total, goal = tl.log(total), p * total
    entropy = log_total - products / total
    last = _search(base, vocabulary, goal, top, log_total, entropy, KIND, BLOCK)
    lanes = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, vocabulary, BLOCK):
        _, keys, weights = _load(base, first, vocabulary, top, log_total, entropy, KIND, BLOCK)
        lanes += tl.where(keys > last, weights, 0.0)
    before = tl.sum(lanes)
    for first in range(0, vocabulary, BLOCK):
        tokens = first + tl.arange(0, BLOCK)
        _, keys, weights = _load(base, first, vocabulary, top, log_total, entropy, KIND, BLOCK)
        tied = tl.where(keys == last, weights, 0.0)
        late = before + (tl.cumsum(tied) - tied) >= goal
        gone = (keys < last) | ((keys == last) & late)
        tl.store(base + tokens, -float("inf"), mask=(tokens < vocabulary) & gone)
        before += tl.sum(tied)
    tl.debug_barrier()


@triton.jit
def _keep_likely(base, vocabulary, least, BLOCK: tl.constexpr):
    top = _highest(base, vocabulary, BLOCK)
    for first in range(0, vocabulary, BLOCK):
        tokens = first + tl.arange(0, BLOCK)
        _, _, weights = _load(base, first, vocabulary, top, 0.0, 0.0, LIKELY, BLOCK)
        tl.store(base + tokens, -float("inf"), mask=(tokens < vocabulary) & (weights < least))


@triton.jit
def _filter_kernel(
    scores, source, temperature, top_k, top_p, min_p, typical_p, vocabulary, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0)
    if tl.load(source + row) < 0:
        return
    if filters_of(row, vocabulary, temperature, top_k, top_p, min_p, typical_p) == 0:
        return
    base = scores + row.to(tl.int64) * vocabulary
    k, p = tl.load(top_k + row), tl.load(top_p + row)
    if (k > 0) & (k < vocabulary):
        _keep_best(base, vocabulary, k, BLOCK)
    if p < 1.0:
        _keep_nucleus(base, vocabulary, p, LIKELY, BLOCK)
    p = tl.load(typical_p + row)
    if p < 1.0:
        _keep_nucleus(base, vocabulary, p, TYPICAL, BLOCK)
    least = tl.load(min_p + row)
    if least > 0.0:
        _keep_likely(base, vocabulary, least, BLOCK)


def filter_scores(scores: torch.Tensor, rows: SamplingRows, block: int = BLOCK) -> None:
    """Filter tempered ``scores`` float32 [rows, vocabulary] in place; other rows are left alone."""
    _filter_kernel[(len(rows),)](
        scores, rows.source, rows.temperature, rows.top_k, rows.top_p, rows.min_p,
        rows.typical_p, scores.shape[1], BLOCK=block, num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip


def variants() -> Iterator[Variant]:
    signature = {
        "scores": "*fp32",
        "source": "*i32",
        "temperature": "*fp32",
        "top_k": "*i32",
        "top_p": "*fp32",
        "min_p": "*fp32",
        "typical_p": "*fp32",
        "vocabulary": "i32",
    }
    options = {"enable_fp_fusion": False}
    constants = {"BLOCK": BLOCK}
    yield Variant("", _filter_kernel, signature, constants, num_warps=WARPS, options=options)
