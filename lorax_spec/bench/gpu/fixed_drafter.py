"""A drafter that always guesses, and is hardly ever right: what verifying costs, and no more."""

from __future__ import annotations

from collections.abc import Sequence as Rows

from lorax_spec.engine.drafting.drafter import Drafter, Outcome, Turn
from lorax_spec.engine.drafting.eligible import LOOKAHEAD
from lorax_spec.engine.drafting.line_up import line_up as usual
from lorax_spec.engine.loading import Loaded
from lorax_spec.engine.sequence import Sequence
from lorax_spec.speculation.cost import StepCost
from lorax_spec.speculation.offer import NOTHING, Offer, chain_offer
from lorax_spec.speculation.tree import ROOT

#: A draft of so many nodes is a tree in which every node has two children.
TREE = 16
#: Far from one another, so that siblings and neighbours differ.
_STRIDE = 7919
_SURE = 0.5


class FixedDrafter:
    """Goes by the name of lookahead, in whose place it stands: requests name it by a method."""

    name = LOOKAHEAD

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def offer(self, turns: Rows[Turn]) -> list[Offer]:
        return [self._offer(turn) for turn in turns]

    def observe(self, outcomes: Rows[Outcome]) -> None:
        """There is nothing to learn."""

    def forget(self, sequence: Sequence) -> None:
        """Nothing is kept of a sequence."""

    def _offer(self, turn: Turn) -> Offer:
        count = turn.nodes if turn.nodes >= TREE else min(turn.nodes, turn.depth)
        if count < 1:
            return NOTHING
        first = _STRIDE * len(turn.sequence.tokens)
        tokens = tuple((first + _STRIDE * node) % self._vocabulary for node in range(count))
        if count < TREE:
            return chain_offer(tokens, (_SURE,) * count, self.name)
        parents = tuple(ROOT if node < 2 else (node - 2) // 2 for node in range(count))
        return Offer(tokens, parents, (_SURE,) * count, (self.name,) * count)


def line_up(loaded: Loaded, cost: StepCost) -> list[Drafter]:
    """An engine's own drafters, but for lookahead."""
    fixed = FixedDrafter(loaded.model.vocabulary)
    return [fixed if one.name == LOOKAHEAD else one for one in usual(loaded, cost)]
