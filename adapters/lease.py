"""A request's hold on the adapters it runs on."""

from __future__ import annotations

import time
from collections.abc import Callable

from lorax_spec.adapters.version import Version
from lorax_spec.adapters.weights import AdapterWeights
from lorax_spec.errors import LoraxSpecError


class Lease:
    """Neither ready nor failed at first; then one of the two, until it is released or given back.

    ``ready``, ``error`` and ``weights`` may be read from any thread at any time.  ``release`` must
    be called once for every lease, whatever became of it.  Its holder says when it ``start``s to
    run on the adapters; until then it may be recalled.
    """

    def __init__(self, release: Callable[[Lease], None], clock: Callable[[], float]) -> None:
        self._release = release
        self._clock = clock
        self._began = clock()
        self._ended: float | None = None
        self.ready = False
        self.error: LoraxSpecError | None = None
        #: In the order of the refs, on the device; empty unless ready.
        self.weights: tuple[AdapterWeights, ...] = ()
        #: The rest belongs to Residency and is read under its lock only.
        self.versions: tuple[Version, ...] = ()
        self.granted = False
        #: Written by ``start`` only.
        self.started = False

    @property
    def settled(self) -> bool:
        return self._ended is not None

    @property
    def waited(self) -> float:
        """Seconds from the lease's beginning until it was ready, failed or released, or now."""
        return (self._clock() if self._ended is None else self._ended) - self._began

    def release(self) -> None:
        """Let go of the adapters, or give up waiting for them; again does nothing."""
        self._release(self)

    def start(self) -> None:
        """Run on the adapters from now on; called once, and only while it is ready.

        Takes no lock: one thread starts, releases and gives back a lease, and who reads this a
        moment too late recalls a lease that is not given back any more.
        """
        self.started = True
        now, today = self._clock(), time.time()
        for version in self.versions:
            version.last_used = today
            if version.turn_began is None:
                version.turn_began = now

    def unsettle(self) -> None:
        """Wait again."""
        self._ended = None
        self.ready = False
        self.granted = False
        self.weights = ()

    def settle(self, error: LoraxSpecError | None) -> None:
        """Become ready, or failed where there is an error."""
        self._ended = self._clock()
        self.error = error
        if error is None:
            self.weights = tuple(v.device for v in self.versions if v.device is not None)
            self.ready = True

    def close(self) -> None:
        """Hold nothing any more; an error stays readable."""
        if self._ended is None:
            self._ended = self._clock()
        self.ready = False
        self.granted = False
        self.weights = ()
        self.versions = ()
