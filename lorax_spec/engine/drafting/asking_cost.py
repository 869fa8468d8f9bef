"""What it takes to ask a drafter: seconds for each sequence that is asked for."""

from __future__ import annotations

#: Share of the newest time in the running estimates, and how many times the estimate it counts as
#: at most.
_NEWEST, _MOST = 0.1, 3.0


class AskingCost:
    """Learned while running: means, since turns are of different lengths, but times beyond all
    others were disturbed.
    """

    def __init__(self) -> None:
        self._turns: dict[str, float] = {}
        self._begun: set[str] = set()
        self._use: float | None = None

    def known(self, drafter: str) -> bool:
        """Whether it was asked so often that the cost is known."""
        return drafter in self._turns

    def of(self, drafter: str, *, first: bool) -> float:
        """Seconds to have its offer and, where it is the ``first`` for its sequence, to use it; 0
        where that is not known yet."""
        seconds = self._turns.get(drafter, 0.0)
        return seconds + (self._use or 0.0) if first else seconds

    def note_turn(self, drafter: str, seconds: float, *, in_vain: bool) -> None:
        """It took so long for one sequence.  A turn ``in_vain`` says little of the others; the very
        first, in which things are set up, says nothing."""
        known = self._turns.get(drafter)
        if drafter not in self._begun:
            self._begun.add(drafter)
        elif known is None:
            self._turns[drafter] = seconds
        elif not in_vain:
            self._turns[drafter] = _moved(known, seconds)

    def note_use(self, seconds: float) -> None:
        """It took so long to merge, to choose from and to lay out the offers for one sequence."""
        self._use = seconds if self._use is None else _moved(self._use, seconds)


def _moved(known: float, seconds: float) -> float:
    return known + _NEWEST * (min(seconds, _MOST * known) - known)
