"""Whether drafting really pays: judged by what steps took, not by what they should have taken.

Drafts are chosen by estimates of acceptance and cost.  Should these be wrong together, the batch
could be slower than without drafts and never notice; so now and then a step goes without, and
where the drafted ones turn out slower, drafting pauses.
"""

from __future__ import annotations

from math import sqrt

#: Drafted steps in a row before one goes without, to compare with: where drafting clearly pays, by
#: so much, and where it is a close call.
_CONTROL, _CLEARLY, _CONTROL_OF_CLOSE = 48, 1.2, 12
#: Share of the newest step in the running means.
_NEWEST = 0.04
#: Steps of each kind before they are compared, and fewer where drafted ones are slower by so much.
_ENOUGH, _ENOUGH_PLAIN, _ENOUGH_OF_SLOW, _SLOW = 16, 2, 4, 1.3
#: How much faster drafted steps must be: a draw is not worth the trouble.
_PAYS = 1.02
#: Standard errors by which they may seem slower before they are: a step of one sequence gives one
#: token or many, and a few unlucky ones say little.
_BY_CHANCE = 0.5
#: The shortest and the longest pause, in steps.
_SHORTEST, _LONGEST = 24, 384


class _Pace:
    """Time for each token, over steps of which the newest count most.

    It is a ratio of sums: the mean of the steps' own ratios would be another thing."""

    def __init__(self) -> None:
        self.count = 0
        self._time = self._rounds = self._squares = 0.0

    @property
    def value(self) -> float:
        return self._time / self._rounds if self.count else 0.0

    @property
    def error(self) -> float:
        """Standard error of ``value``, as of a ratio of means."""
        steps = min(self.count, 2.0 / _NEWEST)
        return sqrt(self._squares / steps) / self._rounds if self.count else 0.0

    def note(self, time: float, rounds: float) -> None:
        self.count += 1
        newest = max(_NEWEST, 1.0 / self.count)
        self._time += newest * (time - self._time)
        self._rounds += newest * (rounds - self._rounds)
        self._squares += newest * ((time - self.value * rounds) ** 2 - self._squares)


class Audit:
    """Compares the pace of steps with drafts and without, their times taken as shares of what a
    step of the same sequences without drafts should take, so that batches of all sizes can be
    compared."""

    def __init__(self) -> None:
        self._plain, self._drafted = _Pace(), _Pace()
        self._in_a_row = 0
        self._rest = 0
        self._pause = 0

    def allows(self) -> bool:
        """Whether the next step may draft."""
        if self._rest > 0:
            self._rest -= 1
            return False
        if self._in_a_row >= self._control or self._plain.count < _ENOUGH_PLAIN:
            self._in_a_row = 0
            return False
        return True

    @property
    def _control(self) -> int:
        close = self._drafted.value * _CLEARLY > self._plain.value
        return _CONTROL_OF_CLOSE if close else _CONTROL

    def note(self, drafted: bool, time: float, rounds: float) -> None:
        """A step took ``time`` of what one without drafts should, for ``rounds`` tokens of each
        sequence."""
        if not drafted:
            self._plain.note(time, rounds)
            return
        self._in_a_row += 1
        self._drafted.note(time, rounds)
        count, at_best = self._drafted.count, self._drafted.value - _BY_CHANCE * self._drafted.error
        slower = at_best > self._plain.value / _PAYS
        far_slower = self._drafted.value > self._plain.value * _SLOW
        if (count >= _ENOUGH and slower) or (count >= _ENOUGH_OF_SLOW and far_slower):
            self._pause = min(max(_SHORTEST, 2 * self._pause), _LONGEST)
            self._rest, self._drafted = self._pause, _Pace()
        elif count > _CONTROL:
            self._pause = 0
