"""How many requests may be in the house at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lorax_spec.errors import Overloaded, Unavailable

_FIRST_GUESS_SECONDS = 1.0
_MEMORY = 0.9


class Admission:
    """Hands out at most ``capacity`` leases, one for each request that runs or waits.

    Who finds none is told when one should be free, going by how long requests took lately.
    """

    def __init__(self, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        self.active = 0
        self.draining = False
        self._clock = clock
        self._duration = _FIRST_GUESS_SECONDS

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Raises Overloaded where the house is full and Unavailable where it is closing."""
        if self.draining:
            raise Unavailable("this server is shutting down")
        if self.active >= self.capacity:
            raise Overloaded(
                f"{self.capacity} requests are running or waiting already",
                retry_after=max(0.05, self._duration / self.capacity),
            )
        self.active += 1
        began = self._clock()
        try:
            yield
        finally:
            self.active -= 1
            self._duration = _MEMORY * self._duration + (1 - _MEMORY) * (self._clock() - began)
