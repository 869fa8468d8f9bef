"""What a block of scores goes through before the temperature: grammar mask, logit bias, penalties.

Parts of the kernels in ``sampling.py``; ``lorax_spec.kernels.sampling_rows`` says what they mean.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lorax_spec.kernels.sampling_rows import MASK_WORD

_WORD = tl.constexpr(MASK_WORD)


@triton.jit
def banned(scores, tokens, inside, words):
    """Scores with minus infinity where a token's bit in the packed ``words`` is not set."""
    word = tl.load(words + tokens // _WORD, mask=inside, other=0)
    allowed = (word >> (tokens % _WORD)) & 1
    return tl.where(allowed == 1, scores, -float("inf"))


@triton.jit
def biased(scores, tokens, first, start, stop, bias_tokens, bias_values,
           BLOCK: tl.constexpr, CHUNK: tl.constexpr):  # fmt: skip
    """Entries ascend by token: those of this block lie together."""
    lower, upper = start, start
    for at in range(start, stop, CHUNK):
        entries = at + tl.arange(0, CHUNK)
        ids = tl.load(bias_tokens + entries, mask=entries < stop, other=2147483647)
        lower += tl.sum((ids < first).to(tl.int32))
        upper += tl.sum((ids < first + BLOCK).to(tl.int32))
    for at in range(lower, upper):
        hit = tokens == tl.load(bias_tokens + at)
        scores = tl.where(hit, scores + tl.load(bias_values + at), scores)
    return scores


@triton.jit
def punished(scores, tokens, inside, seen, counts, extra, extra_count,
             repetition, frequency, presence):  # fmt: skip
    """Repetition, frequency and presence penalty; the ``extra`` tokens are output too."""
    known = tl.load(seen + tokens, mask=inside, other=0) != 0
    count = tl.load(counts + tokens, mask=inside, other=0.0).to(tl.float32)
    for at in range(extra_count):
        hit = tokens == tl.load(extra + at)
        known = known | hit
        count += hit.to(tl.float32)
    repeated = tl.where(scores > 0.0, tl.div_rn(scores, repetition), scores * repetition)
    scores = tl.where(known, repeated, scores)
    scores = scores - count * frequency
    return scores - (count > 0.0).to(tl.float32) * presence
