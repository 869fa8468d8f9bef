"""Medusa heads as a drafter: one pass of an adapter's heads for all its sequences."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Rows
from typing import Protocol

import torch

from lorax_spec.adapters.weights import MedusaHeads
from lorax_spec.engine.drafting.by_heads import groups_by_heads, spread
from lorax_spec.engine.drafting.drafter import Outcome, Turn
from lorax_spec.engine.drafting.eligible import MEDUSA
from lorax_spec.engine.drafting.ranking import CANDIDATES, Ranking
from lorax_spec.engine.sequence import Sequence
from lorax_spec.kernels.medusa import head_states
from lorax_spec.speculation.medusa import best_first, static
from lorax_spec.speculation.offer import Offer

#: Of adapters' heads, and the hidden states [rows, hidden_size] of each that they read, the states
#: [heads, rows, hidden_size], ready for an lm head.
StatesOf = Callable[[Rows[MedusaHeads], Rows[torch.Tensor]], Rows[torch.Tensor]]


class LmHead(Protocol):
    def head_logits(self, states: torch.Tensor) -> torch.Tensor: ...


class MedusaDrafter:
    """Guesses from the heads of a sequence's own adapter, or of the one it is paired with.

    Of an adapter with a static tree nothing else is offered.
    """

    name = MEDUSA

    def __init__(
        self,
        lm_head: LmHead,
        ranking: Ranking | None = None,
        states_of: StatesOf | None = None,
    ) -> None:
        """``states_of``: how states are computed; by default, one adapter after the other."""
        self._lm_head = lm_head
        self._ranking = ranking or Ranking()
        self._states_of = states_of or one_by_one

    @torch.inference_mode()
    def offer(self, turns: Rows[Turn]) -> list[Offer]:
        groups = groups_by_heads(turns, lambda turn: turn.sequence.heads)
        hidden = [torch.stack([turn.hidden for turn in mine]) for _, mine in groups]
        states = self._states_of([heads for heads, _ in groups], hidden)
        offers = [
            self._offers(heads, mine, own)
            for (heads, mine), own in zip(groups, states, strict=True)
        ]
        return spread(turns, groups, offers)

    def observe(self, outcomes: Rows[Outcome]) -> None:
        """Heads read hidden states only."""

    def forget(self, sequence: Sequence) -> None:
        """Nothing is kept of a sequence."""

    def _offers(self, heads: MedusaHeads, turns: list[Turn], states: torch.Tensor) -> list[Offer]:
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


def one_by_one(heads: Rows[MedusaHeads], hidden: Rows[torch.Tensor]) -> list[torch.Tensor]:
    """Each adapter's by itself, in plain torch."""
    return [
        head_states(rows, one.weight, one.bias) for one, rows in zip(heads, hidden, strict=True)
    ]


def _most(heads: MedusaHeads) -> int:
    """Guesses of a head that are needed: a static tree names them by rank."""
    return 1 + max(map(max, heads.choices)) if heads.choices else CANDIDATES
