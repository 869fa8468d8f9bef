"""``best_of``: several sequences of one request, and the likeliest of them as its answer.

The likeliest has the highest log-probability per token (the mean of its tokens' ``logprob``), as in
LoRAX and TGI; of equals, the first.  Unlike there, the request may have a seed, from which those of
all sequences follow, so that the answer can be had again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from lorax_spec.text.validate import ValidRequest
from lorax_spec.types import Response

#: 2**64 over the golden ratio.  It is odd, so no two sequences of a request share a seed; and it is
#: large, so they share none with requests that count their seeds up.
SEED_STEP = 0x9E3779B97F4A7C15


def sequences(request: ValidRequest) -> tuple[ValidRequest, ...]:
    """What to run for ``request``: as many plain requests as its ``best_of`` says.

    Number ``i`` samples with the seed ``(seed + i * SEED_STEP) mod 2**64``; the first is what
    the request would be without ``best_of``.
    """
    parameters = request.parameters
    if (parameters.best_of or 1) == 1:
        return (request,)
    assert parameters.best_of is not None and parameters.seed is not None, "not validated"
    return tuple(
        replace(
            request,
            parameters=replace(
                parameters,
                best_of=None,
                details=True,
                seed=(parameters.seed + place * SEED_STEP) % 2**64,
            ),
        )
        for place in range(parameters.best_of)
    )


def best(request: ValidRequest, answers: Sequence[Response]) -> Response:
    """The likeliest of the answers to ``sequences(request)``, in that order, and its details.

    The details' ``seed`` alone, without ``best_of``, gives the same answer again.
    """
    if len(answers) == 1:
        return answers[0]
    chosen = max(answers, key=_mean_logprob)
    if request.parameters.details:
        return chosen
    return replace(chosen, details=replace(chosen.details, tokens=()))


def _mean_logprob(answer: Response) -> float:
    """An answer without a token is the last that anybody wants."""
    logprobs = [token.logprob for token in answer.details.tokens]
    return math.fsum(logprobs) / len(logprobs) if logprobs else -math.inf
