"""What a step costs: measured before the first request, kept true by every step since."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

#: Shares of an error that every row count and the very row count learn from one step.
_OVERALL, _LOCAL = 0.02, 0.08
#: The most one step may claim to be off by: the machine may have been busy elsewhere.
_BELIEVED = 0.3


class StepCost:
    """Seconds of a step by its rows.

    ``measured`` maps row counts to seconds, for rows of one sequence with ``context`` tokens before
    them; between the counts the cost is interpolated, beyond them the last slope goes on.  A path
    is a run of rows that reads a context: every sequence has one, and every further leaf of its
    draft makes another.  Each costs ``branch + key * context`` seconds.
    """

    def __init__(
        self,
        measured: Mapping[int, float],
        branch: float = 0.0,
        key: float = 0.0,
        context: int = 0,
    ) -> None:
        self._rows = sorted(measured)
        self._seconds = [measured[rows] for rows in self._rows]
        self._branch, self._key = branch, key
        self._measured_path = branch + key * context
        self._overall = 0.0
        self._local = [0.0] * len(self._rows)

    def seconds(self, rows: int) -> float:
        """Of a step of ``rows`` rows on one path."""
        left, right, share = self._between(rows)
        first, last = (self._seconds[i] + self._local[i] for i in (left, right))
        return max(first + share * (last - first) + self._overall, 1e-6)

    def path(self, context: int) -> float:
        """Seconds of one more path over ``context`` tokens."""
        return self._branch + self._key * context

    def paths(self, contexts: Iterable[int]) -> float:
        """What paths over these contexts cost beyond the one that was measured."""
        return max(0.0, sum(map(self.path, contexts)) - self._measured_path)

    def note(self, rows: int, paths: float, seconds: float) -> None:
        """Learn from a step of ``rows`` rows, whose ``paths`` cost so many of its seconds."""
        expected = self.seconds(rows) + paths
        bound = _BELIEVED * expected
        error = max(-bound, min(bound, seconds - expected))
        self._overall += _OVERALL * error
        left, right, share = self._between(rows)
        share = min(1.0, share)
        self._local[left] += _LOCAL * (1.0 - share) * error
        self._local[right] += _LOCAL * share * error

    def _between(self, rows: int) -> tuple[int, int, float]:
        """Two measured places, and how far between them ``rows`` lies (beyond them: over 1)."""
        if len(self._rows) == 1:
            return 0, 0, 0.0
        right = min(max(bisect_left(self._rows, rows), 1), len(self._rows) - 1)
        left = right - 1
        span = self._rows[right] - self._rows[left]
        return left, right, max(0.0, (rows - self._rows[left]) / span)
