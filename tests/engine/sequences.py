"""Sequences without a model: whatever their adapters, and a toy in place of the language model."""

from __future__ import annotations

from typing import cast

from lorax_spec.adapters.lease import Lease
from lorax_spec.engine.request import TokenRequest
from lorax_spec.engine.sampling import SamplingRule
from lorax_spec.engine.sequence import Sequence
from lorax_spec.types import Parameters, Speculation


def sequence(
    prompt: int | list[int],
    new_tokens: int = 20,
    *,
    number: int = 0,
    identity: str = "",
    ready: bool = True,
    wants_prefill: bool = False,
    num_tokens: int | None = None,
) -> Sequence:
    """One that can run.  A prompt given by its length shares nothing with others' of other
    numbers."""
    tokens = [1000 * number + i for i in range(prompt)] if isinstance(prompt, int) else prompt
    return Sequence(
        request=TokenRequest(
            number, tuple(tokens), Parameters(), Speculation(num_tokens=num_tokens)
        ),
        lease=cast(Lease, None),
        rule=SamplingRule(),
        tokens=list(tokens),
        limit=len(tokens) + new_tokens,
        ready=ready,
        identity=identity,
        prefill_logprobs=[] if wants_prefill else None,
    )


def next_token(tokens: list[int]) -> int:
    """What the toy model says: few different tokens, so that texts meet again."""
    return (len(tokens) // 7 + sum(tokens[-3:])) % 3
