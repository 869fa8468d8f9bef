"""Medusa heads as a drafter: one pass of an adapter's heads for all its sequences."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Protocol

import torch

from lorax_spec.adapters.weights import MedusaHeads
from lorax_spec.engine.drafting.by_heads import offers_by_heads
from lorax_spec.engine.drafting.drafter import Outcome, Turn
from lorax_spec.engine.drafting.eligible import MEDUSA
from lorax_spec.engine.drafting.ranking import CANDIDATES, Ranking
from lorax_spec.engine.sequence import Sequence
from lorax_spec.kernels.medusa import head_states
from lorax_spec.speculation.medusa import best_first, static
from lorax_spec.speculation.offer import Offer


class LmHead(Protocol):
    def head_logits(self, states: torch.Tensor) -> torch.Tensor: ...


class MedusaDrafter:
    """Guesses from the heads of a sequence's own adapter, or of the one it is paired with.

    Of an adapter with a static tree nothing else is offered.
    """

    name = MEDUSA

    def __init__(self, lm_head: LmHead, ranking: Ranking | None = None) -> None:
        self._lm_head = lm_head
        self._ranking = ranking or Ranking()

    def offer(self, turns: Rows[Turn]) -> list[Offer]:
        return offers_by_heads(turns, lambda turn: turn.sequence.heads, self._offers)

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
        offers = []
        guesses = self._ranking.guesses(logits, turns, 1, heads.calibration, _most(heads))
        for turn, each in zip(turns, guesses, strict=True):
            if heads.choices is None:
                offers.append(best_first(each[: turn.depth], turn.nodes, self.name))
            else:
                offers.append(static(each[: turn.depth], heads.choices, self.name))
        return offers


def _most(heads: MedusaHeads) -> int:
    """Guesses of a head that are needed: a static tree names them by rank."""
    return 1 + max(map(max, heads.choices)) if heads.choices else CANDIDATES
