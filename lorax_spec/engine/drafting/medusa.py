"""Medusa heads as a drafter: one pass of an adapter's heads for all its sequences."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Protocol

import torch

from lorax_spec.adapters.weights import MedusaHeads
from lorax_spec.engine.drafting.drafter import Outcome, Turn
from lorax_spec.engine.drafting.eligible import MEDUSA
from lorax_spec.engine.sequence import Sequence
from lorax_spec.kernels.medusa import head_states
from lorax_spec.speculation.medusa import HeadGuesses, best_first
from lorax_spec.speculation.offer import NOTHING, Offer

#: Candidates of a head that are looked at, and those that may enter a tree.
LOOKED_AT, CANDIDATES = 64, 10


class LmHead(Protocol):
    def head_logits(self, states: torch.Tensor) -> torch.Tensor: ...


class MedusaDrafter:
    """Guesses from the heads of a sequence's own adapter, or of the one it is paired with."""

    name = MEDUSA

    def __init__(self, lm_head: LmHead) -> None:
        self._lm_head = lm_head

    def offer(self, turns: Rows[Turn]) -> list[Offer]:
        groups: dict[int, tuple[MedusaHeads, list[int]]] = {}
        for index, turn in enumerate(turns):
            heads = turn.sequence.heads
            if heads is not None:
                groups.setdefault(id(heads), (heads, []))[1].append(index)
        offers = [NOTHING] * len(turns)
        for heads, members in groups.values():
            mine = [turns[index] for index in members]
            for index, offer in zip(members, self._offers(heads, mine), strict=True):
                offers[index] = offer
        return offers

    def observe(self, outcomes: Rows[Outcome]) -> None:
        """Heads read hidden states only."""

    def forget(self, sequence: Sequence) -> None:
        """Nothing is kept of a sequence."""

    @torch.inference_mode()
    def _offers(self, heads: MedusaHeads, turns: list[Turn]) -> list[Offer]:
        hidden = torch.stack([turn.hidden for turn in turns])
        states = head_states(hidden, heads.weight, heads.bias)
        if heads.lm_head is None:
            logits = self._lm_head.head_logits(states)
        else:
            logits = torch.bmm(states, heads.lm_head.transpose(1, 2)).float()
        values, tokens = logits.log_softmax(-1).topk(min(CANDIDATES, logits.shape[-1]))
        probabilities = values.exp().transpose(0, 1).tolist()
        ids = tokens.transpose(0, 1).tolist()
        offers = []
        for turn, turn_ids, turn_probabilities in zip(turns, ids, probabilities, strict=True):
            guesses: list[HeadGuesses] = [
                list(zip(t, p, strict=True))
                for t, p in zip(turn_ids[: turn.depth], turn_probabilities, strict=False)
            ]
            offers.append(best_first(guesses, turn.nodes, self.name))
        return offers
