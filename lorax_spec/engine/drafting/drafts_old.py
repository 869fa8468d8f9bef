"""Who drafts for which sequence, and how much."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Protocol

import torch

from lorax_spec.adapters.weights import MedusaHeads
from lorax_spec.engine.sequence import Sequence
from lorax_spec.kernels.medusa import head_states
from lorax_spec.speculation import medusa, prompt_lookup
from lorax_spec.speculation.prompt_lookup import LookupIndex
from lorax_spec.speculation.tree import EMPTY
from lorax_spec.types import Method, Speculation

#: A root and seven nodes: the eight rows that cost about one where memory is the limit.
MEDUSA_NODES = 7
#: What prompt lookup drafts for a request that asks for it from a server that has no default.
LOOKUP_TOKENS = 3


class LmHead(Protocol):
    def head_logits(self, states: torch.Tensor) -> torch.Tensor: ...


def drafter_of(speculation: Speculation, has_heads: bool, server_tokens: int) -> Method:
    """Who drafts: what the request asks for, as far as it is at hand.

    ``auto`` takes the request's heads where it has them, and prompt lookup where it has none and
    the server drafts by default or the request gives a number.
    """
    match speculation.method:
        case Method.AUTO if has_heads:
            return Method.MEDUSA
        case Method.AUTO if server_tokens > 0 or speculation.num_tokens:
            return Method.PROMPT_LOOKUP
        case Method.MEDUSA if has_heads:
            return Method.MEDUSA
        case Method.PROMPT_LOOKUP:
            return Method.PROMPT_LOOKUP
    return Method.NONE


def draft_size(sequence: Sequence, drafter: Method, server_tokens: int) -> int:
    """How many tokens to draft next, never deeper than the request has room for."""
    given = sequence.request.speculation.num_tokens
    if drafter is Method.NONE or sequence.draft_room <= 0:
        return 0
    if drafter is Method.PROMPT_LOOKUP:
        wanted = given if given is not None else server_tokens or LOOKUP_TOKENS
        return min(wanted, sequence.draft_room)
    return MEDUSA_NODES if given is None else given


def draft_all(
    rows: Rows[tuple[Sequence, torch.Tensor]], lm_head: LmHead, server_tokens: int
) -> None:
    """Give every sequence its next draft; each comes with the hidden state [hidden_size] of the
    row its last token was chosen from."""
    medusa_rows: dict[int, tuple[MedusaHeads, list[tuple[Sequence, torch.Tensor, int]]]] = {}
    for sequence, hidden in rows:
        drafter = drafter_of(
            sequence.request.speculation, sequence.heads is not None, server_tokens
        )
        size = draft_size(sequence, drafter, server_tokens)
        sequence.draft = EMPTY
        if size == 0:
            continue
        if drafter is Method.MEDUSA and sequence.heads is not None:
            group = medusa_rows.setdefault(id(sequence.heads), (sequence.heads, []))
            group[1].append((sequence, hidden, size))
        else:
            if sequence.lookup is None:
                sequence.lookup = LookupIndex()
            sequence.draft = prompt_lookup.draft(sequence.lookup, sequence.tokens, size)
    for heads, group_rows in medusa_rows.values():
        _draft_medusa(heads, group_rows, lm_head)


@torch.inference_mode()
def _draft_medusa(
    heads: MedusaHeads, rows: list[tuple[Sequence, torch.Tensor, int]], lm_head: LmHead
) -> None:
    """One pass of one adapter's heads over the last accepted row of each of its sequences."""
    states = head_states(torch.stack([hidden for _, hidden, _ in rows]), heads.weight, heads.bias)
    if heads.lm_head is None:
        logits = lm_head.head_logits(states)
    else:
        logits = torch.bmm(states, heads.lm_head.transpose(1, 2)).float()
    chain_only = all(size <= heads.num_heads for _, _, size in rows)
    count = 1 if chain_only else min(medusa.CANDIDATES, logits.shape[-1])
    values, tokens = logits.log_softmax(-1).topk(count)
    for index, (sequence, _, size) in enumerate(rows):
        depth = min(heads.num_heads, sequence.draft_room)
        guesses = [
            list(zip(t, v, strict=True))
            for t, v in zip(
                tokens[:depth, index].tolist(), values[:depth, index].tolist(), strict=True
            )
        ]
        sequence.draft = medusa.draft(guesses, size)
