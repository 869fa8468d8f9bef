"""What it takes to ask a drafter: seconds for each sequence that is asked for."""

from __future__ import annotations

#: Share of the newest time in the running estimates, and how many times the estimate it counts as
#: at most.
_NEWEST, _MOST = 0.1, 3.0


class AskingCost:
    """Learned while running: means, since turns are of different lengths, but times beyond all
    others were disturbed.

    A turn for many sequences costs each of them less than one for few, so times are kept apart by
    how many were asked for, in binary digits.  Of more than were ever asked for at once the whole
    turn is taken to last no longer, which one turn puts right.
    """

    def __init__(self) -> None:
        self._turns: dict[str, dict[int, float]] = {}
        self._begun: set[str] = set()
        self._together: dict[str, int] = {}
        self._use: float | None = None

    def known(self, drafter: str) -> bool:
        """Whether it was asked so often that the cost is known."""
        return drafter in self._turns

    def of(self, drafter: str, *, first: bool, among: int = 1) -> float:
        """Seconds to have its offer if it is asked for ``among`` sequences together, and to use the
        offer where it is the ``first`` for its sequence; 0 where that is not known yet."""
        seconds = _like(self._turns.get(drafter, {}), among.bit_length())
        return seconds + (self._use or 0.0) if first else seconds

    def together(self, drafter: str, worths: list[float]) -> int:
        """For how many sequences one turn pays, 1 at least, where each may cost as many seconds as
        ``worths`` says: the more there are, the less each costs.  ``lately`` goes by it."""
        best_first = sorted(worths, reverse=True)
        counts = range(len(worths), 1, -1)
        paying = (n for n in counts if best_first[n - 1] > self.of(drafter, first=False, among=n))
        count = self._together[drafter] = next(paying, 1)
        return count

    def lately(self, drafter: str) -> float:
        """Seconds as its sequences' first, for as many as one turn paid for when that was last
        looked at."""
        return self.of(drafter, first=True, among=self._together.get(drafter, 1))

    def note_turn(self, drafter: str, seconds: float, *, in_vain: bool, among: int = 1) -> None:
        """It took so long for each of ``among`` sequences.  A turn ``in_vain`` says little of the
        others; the very first, in which things are set up, says nothing."""
        if drafter not in self._begun:
            self._begun.add(drafter)
            return
        turns, size = self._turns.setdefault(drafter, {}), among.bit_length()
        known = turns.get(size)
        if known is None:
            turns[size] = seconds
        elif not in_vain:
            turns[size] = _moved(known, seconds)

    def note_use(self, seconds: float) -> None:
        """It took so long to merge, to choose from and to lay out the offers for one sequence."""
        self._use = seconds if self._use is None else _moved(self._use, seconds)


def _like(turns: dict[int, float], size: int) -> float:
    """By the nearest smaller size that is known, else the nearest larger: as long a turn."""
    if not turns or size in turns:
        return turns.get(size, 0.0)
    nearest = max((known for known in turns if known < size), default=min(turns))
    return float(turns[nearest] * 2.0 ** (nearest - size))


def _moved(known: float, seconds: float) -> float:
    return known + _NEWEST * (min(seconds, _MOST * known) - known)
