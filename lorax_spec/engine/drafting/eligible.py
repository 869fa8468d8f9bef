"""Which drafters a request may use, on this server and with its adapters."""

from __future__ import annotations

from collections.abc import Collection

from lorax_spec.types import Method, Speculation

MEDUSA, HYDRA, GRAMMAR = "medusa", "hydra", "grammar"
LOOKUP, DRAFT_MODEL, LOOKAHEAD = "prompt_lookup", "draft_model", "lookahead"


def eligible(
    speculation: Speculation,
    heads: Collection[str],
    constrained: bool,
    server_drafts: bool,
    at_hand: Collection[str],
) -> frozenset[str]:
    """Names of the drafters that may draft for a request.

    Args:
        heads: kinds of heads that it has, MEDUSA or HYDRA.
        constrained: its output follows a grammar, whose forced tokens are drafts for free.
        server_drafts: the server drafts for requests that do not say (``--speculative-tokens``).
        at_hand: what this server has.

    ``auto`` takes the request's heads, and beside them prompt lookup and the draft model where
    the server drafts by default; without heads also where the request gives a number of tokens.
    """
    chosen: set[str] = set()
    match speculation.method:
        case Method.NONE:
            return frozenset()
        case Method.AUTO:
            chosen.update(heads)
            if server_drafts or (speculation.num_tokens and not heads):
                chosen.update((LOOKUP, DRAFT_MODEL))
        case Method.MEDUSA:
            chosen.update(heads)
        case Method.PROMPT_LOOKUP | Method.DRAFT_MODEL | Method.LOOKAHEAD:
            chosen.add(speculation.method.value)
    if constrained:
        chosen.add(GRAMMAR)
    return frozenset(chosen.intersection(at_hand))
