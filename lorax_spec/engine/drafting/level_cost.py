"""Whether another level of guesses is worth its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lorax_spec.engine.clock import Clock

#: Share of a slower time in the running estimates.
_SLOWER = 0.1


class LevelCost:
    """What a level takes, learned while running for each number of rows, by its binary digits.

    It is quick to believe that something was quick: slow times were often disturbed.
    """

    def __init__(self, clock: Clock, step_seconds: Callable[[int], float]) -> None:
        """``step_seconds``: of the step that verifies, by the number of its sequences."""
        self._clock = clock
        self._step_seconds = step_seconds
        self._seconds: dict[int, float] = {}

    @contextmanager
    def level(self, rows: int) -> Iterator[None]:
        """Around the computation of one."""
        began = self._clock()
        yield
        seconds, size = self._clock() - began, rows.bit_length()
        known = self._seconds.get(size, seconds)
        self._seconds[size] = min(seconds, known + _SLOWER * (seconds - known))

    def pays(self, gain: float, rows: int, expected: float, sequences: int) -> bool:
        """Whether a level of ``rows`` rows that should bring ``gain`` tokens brings more than its
        time would without it: the step of ``sequences`` sequences gives ``expected`` tokens."""
        seconds = self._seconds.get(rows.bit_length(), 0.0)
        return gain * self._step_seconds(sequences) > seconds * expected
