"""Callers who ask again as soon as they are answered, and how long each waited for what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import Emitted, Event, Failed, Finished, TokenRequest
from lorax_spec.errors import LoraxSpecError

#: Seconds after which callers look around though nothing has arrived.
_PATIENCE = 0.1


@dataclass
class Call:
    """A request on its way.

    ``cold``: its adapter was not on the device when it was asked.  ``first``: seconds to its first
    token; ``loading``: those until its adapter was there.  ``times``: when its tokens came, by the
    wall's clock and by the stepping thread's processor time.
    """

    request: TokenRequest
    cold: bool
    asked: float
    first: float = 0.0
    loading: float = 0.0
    tokens: list[int] = field(default_factory=list)
    times: list[tuple[float, float]] = field(default_factory=list)
    error: LoraxSpecError | None = None

    def took(self, tokens: Sequence[int], now: float, cpu_now: float) -> None:
        if not self.times:
            self.first = now - self.asked
        self.times.append((now, cpu_now))
        self.tokens += tokens


def gaps(calls: Sequence[Call]) -> list[tuple[float, float]]:
    """Seconds between the tokens of each, by both clocks, once all of them decode."""
    began = max(call.times[0] for call in calls)
    late = [[moment for moment in call.times if moment >= began] for call in calls]
    return [
        (after[0] - before[0], after[1] - before[1])
        for times in late
        for before, after in pairwise(times)
    ]


def _nobody(events: Sequence[Event]) -> None:
    pass


class Callers:
    """``at_once`` callers of one core."""

    def __init__(self, core: EngineCore, at_once: int) -> None:
        self._core = core
        self._at_once = at_once
        self._arrived = threading.Event()
        core.adapters.set_wakeup(self._arrived.set)

    def ask(
        self,
        requests: Sequence[TokenRequest],
        beside: Callable[[Sequence[Event]], None] = _nobody,
    ) -> list[Call]:
        """Have all ``requests`` answered, or refused, in the order in which they were asked.

        ``beside`` gets what each step gave, also to others; before the first step, nothing.
        """
        waiting = list(reversed(requests))
        calls: dict[int, Call] = {}
        live: set[int] = set()
        beside(())
        while waiting or live:
            while waiting and len(live) < self._at_once:
                request = waiting.pop()
                calls[request.request_id] = self._submit(request)
                live.add(request.request_id)
            events = self._step()
            now, cpu_now = time.perf_counter(), time.thread_time()
            for event in events:
                if event.request_id in live:
                    call = calls[event.request_id]
                    if isinstance(event, Emitted):
                        call.took([token.id for token in event.tokens], now, cpu_now)
                    elif isinstance(event, Failed):
                        call.error = event.error
                    else:
                        call.loading = event.timings.adapter_load
                    if isinstance(event, Finished | Failed):
                        live.remove(event.request_id)
            beside(events)
        return list(calls.values())

    def _submit(self, request: TokenRequest) -> Call:
        adapter = request.adapter
        cold = adapter is not None and adapter.adapter_id not in self._core.adapters.on_device()
        asked = time.perf_counter()
        self._core.submit(request)
        return Call(request, cold, asked)

    def _step(self) -> Sequence[Event]:
        if not self._core.has_work:
            self._arrived.wait(_PATIENCE)
            self._arrived.clear()
        return self._core.step() if self._core.has_work else ()
