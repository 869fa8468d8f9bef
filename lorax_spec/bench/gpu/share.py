"""A part's share of the time, and the end of a part that would take more."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")


class OutOfTime(Exception):
    """A part was cut."""


@dataclass(frozen=True)
class Share:
    """``ends`` by ``time.perf_counter``."""

    seconds: float
    ends: float

    @classmethod
    def of(cls, seconds: float) -> Share:
        return cls(seconds, time.perf_counter() + seconds)

    @property
    def left(self) -> float:
        return self.ends - time.perf_counter()

    def part(self, fraction: float) -> Share:
        """So much of what is left."""
        return Share.of(max(0.0, self.left) * fraction)

    def fill(self, items: Iterable[Item], least: int) -> Iterator[Item]:
        """Items as long as there is time, ``least`` of them in any case."""
        for index, item in enumerate(items):
            if index >= least and self.left <= 0:
                return
            yield item


@contextmanager
def cut_after(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in what runs longer.  Only on the main thread; an alarm that was set before
    goes off all the same."""

    def cut(_signal: int, _frame: FrameType | None) -> None:
        raise OutOfTime(f"cut after {seconds:.0f} s")

    began = time.perf_counter()
    handler = signal.signal(signal.SIGALRM, cut)
    earlier, _ = signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if earlier:
            rest = earlier - (time.perf_counter() - began)
            signal.setitimer(signal.ITIMER_REAL, max(rest, 0.001))
