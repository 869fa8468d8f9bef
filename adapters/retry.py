"""Asking again where the network failed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from lorax_spec.errors import Unavailable

T = TypeVar("T")


@dataclass(frozen=True)
class Retry:
    """``attempts`` in all; waits of ``first`` seconds, doubled each time up to ``longest``.

    Each wait is drawn between half of that and all of it, so that those whom one outage hit do not
    come back together.
    """

    attempts: int = 5
    first: float = 0.25
    longest: float = 8.0
    sleep: Callable[[float], None] = time.sleep

    def __call__(self, call: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """What ``call`` returns; where it raises Unavailable, it is called again.

        An attempt that brought ``progress`` beyond where it ever was counts as none.
        """
        failed, furthest = 0, progress()
        while True:
            try:
                return call()
            except Unavailable:
                reached = progress()
                failed = 1 if reached > furthest else failed + 1
                furthest = max(reached, furthest)
                if failed >= self.attempts:
                    raise
            wait = min(self.first * 2 ** (failed - 1), self.longest)
            self.sleep(wait * random.uniform(0.5, 1))
