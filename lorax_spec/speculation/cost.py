"""What a step costs: measured before the first request, kept true by every step since."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

#: Share of its error that a step corrects, at least; the first steps of a kind correct more.
_LEARNED = 0.06
#: Tokens that are believed to cost about as much as a step as such, beside the forward.
_LIKE_A_STEP = 8.0
#: Share of what was learned of a row count that every step forgets: a bad experience is tried anew.
_FORGOTTEN = 0.004
#: The most one step may claim to be off by: the machine may have been busy elsewhere.
_BELIEVED = 0.3


class StepCost:
    """Seconds of a step by its rows and by the tokens that come of it::

        t = forward(rows) + paths + step + token * tokens

    ``measured`` maps row counts to a forward's seconds, for rows of one sequence with ``context``
    tokens before them; between the counts it is interpolated, beyond them it goes on as over the
    upper half of them.
    A path is a run of rows that reads a context: every sequence has one, and every further leaf of
    its draft makes another.  Each costs ``branch + key * context`` seconds.

    Steps without drafts teach what a step and its tokens cost beside the forward: sampling and
    bookkeeping, which are paid with drafts or without (by the normalised least-mean-squares rule
    of Widrow and Hoff).  Steps with drafts, or prompts, teach what so many rows cost.  So what
    a draft seems to cost is always a difference between steps that were seen.
    """

    def __init__(
        self,
        measured: Mapping[int, float],
        branch: float = 0.0,
        key: float = 0.0,
        context: int = 0,
    ) -> None:
        self._rows = sorted(measured)
        self._first = [measured[rows] for rows in self._rows]
        self._seconds = list(self._first)
        self._branch, self._key = branch, key
        self._measured_path = branch + key * context
        self._seen = [0] * len(self._rows)
        self._seen_plain = 0
        self._step = 0.0
        #: Seconds that a token takes beside the forward.
        self.token = 0.0

    def seconds(self, rows: int, tokens: float = 0.0) -> float:
        """Of a step of ``rows`` rows on one path that gives ``tokens`` tokens."""
        return max(self.forward(rows) + self.token * tokens, 1e-6)

    def forward(self, rows: int) -> float:
        """The part of ``seconds`` that tokens have no share in."""
        return max(self._measured(rows) + self._step, 1e-6)

    def forwards(self, rows: int, count: int) -> list[float]:
        """``forward`` of ``rows`` rows, of one more, and so on up to ``count`` more."""
        known, measured, final = self._rows, self._seconds, len(self._rows) - 1
        left, right, _ = self._between(rows)
        seconds: list[float] = []
        for n in range(rows, rows + count + 1):
            if n > known[right] and right < final:
                left, right = right, right + 1
            elif n > known[right]:
                left, right, _ = self._between(n)
            stretch = (known[right] - known[left]) or 1
            slope = (measured[right] - measured[left]) / stretch
            beyond = max(0, n - known[left])
            seconds.append(max(measured[left] + slope * beyond + self._step, 1e-6))
        return seconds

    def path(self, context: int) -> float:
        """Seconds of one more path over ``context`` tokens."""
        return self._branch + self._key * context

    def paths(self, contexts: Iterable[int]) -> float:
        """What paths over these contexts cost beyond the one that was measured."""
        contexts = list(contexts)
        seconds = self._branch * len(contexts) + self._key * sum(contexts)
        return max(0.0, seconds - self._measured_path)

    def note(self, rows: int, tokens: int, paths: float, seconds: float, *, plain: bool) -> None:
        """Learn from a step of ``rows`` rows and ``tokens`` tokens, whose ``paths`` cost so many
        of its seconds.  ``plain``: without drafts and prompts."""
        expected = self.seconds(rows, tokens) + paths
        bound = _BELIEVED * expected
        error = max(-bound, min(bound, seconds - expected))
        for index, first in enumerate(self._first):
            self._seconds[index] += _FORGOTTEN * (first - self._seconds[index])
        if plain:
            many = tokens / _LIKE_A_STEP
            share = _rate(self._seen_plain) * error / (1.0 + many * many)
            self._seen_plain += 1
            self._step += share
            self.token = max(0.0, self.token + share * many / _LIKE_A_STEP)
            return
        if rows > self._rows[-1]:
            return  # long prompts: what they cost says little of a few rows more
        # Never the count below: that may be what the same sequences take without drafts.
        left, right, between = self._between(rows)
        index = right if between > 0.0 else left
        self._seconds[index] += _rate(self._seen[index]) * error
        self._seen[index] += 1

    def _measured(self, rows: int) -> float:
        """Interpolated."""
        left, right, between = self._between(rows)
        return self._seconds[left] + between * (self._seconds[right] - self._seconds[left])

    def _between(self, rows: int) -> tuple[int, int, float]:
        """Two measured places, and how far between them ``rows`` lies (beyond them: over 1)."""
        if len(self._rows) == 1:
            return 0, 0, 0.0
        last = len(self._rows) - 1
        if rows > self._rows[last]:
            # One short stretch would not do to look far ahead by.
            left, right = min(bisect_left(self._rows, self._rows[last] // 2), last - 1), last
        else:
            right = max(bisect_left(self._rows, rows), 1)
            left = right - 1
        span = self._rows[right] - self._rows[left]
        return left, right, max(0.0, (rows - self._rows[left]) / span)


def _rate(seen: int) -> float:
    return max(_LEARNED, 1.0 / (4.0 + seen))
