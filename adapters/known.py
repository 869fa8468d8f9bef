"""What look-ups found, for a while."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from lorax_spec.adapters.source import Location
from lorax_spec.errors import LoraxSpecError


class Known:
    """Thread-safe.  Remembers ``most`` findings; those longest unasked for are forgotten first."""

    def __init__(self, most: int = 16384, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._found: OrderedDict[Hashable, tuple[float, Location | LoraxSpecError]] = OrderedDict()

    def get(self, name: Hashable) -> Location | LoraxSpecError | None:
        """What was found under ``name``; None where nothing is known, or not any more."""
        with self._lock:
            found = self._found.get(name)
            if found is None:
                return None
            until, finding = found
            if self._clock() >= until:
                del self._found[name]
                return None
            self._found.move_to_end(name)
            return finding

    def put(self, name: Hashable, finding: Location | LoraxSpecError, seconds: float) -> None:
        """Know ``finding`` for so many seconds, which may be infinite."""
        with self._lock:
            self._found[name] = self._clock() + seconds, finding
            self._found.move_to_end(name)
            if len(self._found) > self._most:
                self._found.popitem(last=False)
