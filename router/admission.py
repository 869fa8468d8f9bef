"""How many requests may be in the house at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lorax_spec.errors import InvalidArgument, Overloaded, Unavailable

_FIRST_GUESS_SECONDS = 1.0
_MEMORY = 0.9


class Admission:
    """Hands out at most ``capacity`` leases, one for each sequence that runs or waits.

    Who finds none is told when one should be free, going by how long requests took lately.
    """

    def __init__(self, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        self.active = 0
        self.draining = False
        self._clock = clock
        self._duration = _FIRST_GUESS_SECONDS

    @contextmanager
    def lease(self, count: int = 1) -> Iterator[None]:
        """``count`` leases at once, for a request of so many sequences (``best_of``).

        Raises Overloaded where the house is full, Unavailable where it is closing, and
        InvalidArgument where it is too small for the request even when empty.
        """
        if self.draining:
            raise Unavailable("this server is shutting down")
        if count > self.capacity:
            raise InvalidArgument(
                f"`best_of` may be at most {self.capacity}, not {count}: "
                "this server runs no more at a time",
                "parameters.best_of",
            )
        if self.active + count > self.capacity:
            raise Overloaded(
                f"{self.active} of {self.capacity} requests are running or waiting already",
                retry_after=max(0.05, self._duration * count / self.capacity),
            )
        self.active += count
        began = self._clock()
        try:
            yield
        finally:
            self.active -= count
            self._duration = _MEMORY * self._duration + (1 - _MEMORY) * (self._clock() - began)
