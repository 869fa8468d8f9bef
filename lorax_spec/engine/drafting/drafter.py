"""What a drafter is: the one small interface behind which every way of guessing stands."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Protocol

import torch

from lorax_spec.engine.sequence import Sequence
from lorax_spec.speculation.offer import Offer
from lorax_spec.speculation.tree import DraftTree


@dataclass(frozen=True)
class Turn:
    """A sequence that is about to get its next draft.

    All its tokens are committed; the last one's keys and values are not computed yet.  ``hidden``
    [hidden_size], in the model's dtype, is the lm head's input of the row that token was chosen
    from.  More than ``nodes`` nodes, nodes deeper than ``depth`` tokens ahead, or nodes less likely
    to be reached than ``least``, are of no use.
    """

    sequence: Sequence
    hidden: torch.Tensor
    nodes: int
    depth: int
    least: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What became of a sequence's draft.

    ``logits`` float32 [1 + nodes, vocabulary], raw: row 0 is what followed the last committed
    token, row ``i + 1`` what followed node ``i``.  ``accepted``: the nodes the walk went through.
    """

    sequence: Sequence
    draft: DraftTree
    logits: torch.Tensor
    accepted: tuple[int, ...]


class Drafter(Protocol):
    """Guesses for many sequences at a time.  Nothing it does can change an output."""

    @property
    def name(self) -> str:
        """As requests and figures call it."""
        ...

    def offer(self, turns: Rows[Turn]) -> list[Offer]:
        """One offer for each turn, NOTHING where there is no good guess."""
        ...

    def observe(self, outcomes: Rows[Outcome]) -> None:
        """Learn from drafts that were verified; called before the next ``offer``."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """Let go of all that is held for a sequence that ended; unknown ones are ignored."""
        ...
