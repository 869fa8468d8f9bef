"""Eight requests that decode for as long as they are watched."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from lorax_spec.bench.engine_side import EngineSide
from lorax_spec.bench.workload import Prompt
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import Event

_LONGEST = 640  # tokens
_QUIET = 10  # steps


@dataclass(frozen=True)
class Window:
    """Inter-token times in seconds: within, and in the quiet steps on both sides."""

    within: list[float]
    quiet: list[float]


class Streams:
    """Every step of the core gives each stream one token."""

    def __init__(self, core: EngineCore, asked: list[Prompt]) -> None:
        self.core = core
        self._asked = [replace(prompt, new_tokens=_LONGEST) for prompt in asked]
        self._live: list[int] = []
        self._steps_left = 0
        self._last = 0.0

    def step(self) -> tuple[float, list[Event]]:
        """(seconds since the streams' last tokens, what came)"""
        events = self.core.step()
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._steps_left -= 1
        return seconds, events

    def watch(self, act: Callable[[], list[float]]) -> Window:
        """The times that ``act`` saw, between quiet ones."""
        if self._steps_left < _LONGEST // 4:
            self._begin_anew()
        self.step()
        before = self._quiet()
        within = act()
        return Window(within, before + self._quiet())

    def _quiet(self) -> list[float]:
        return [self.step()[0] for _ in range(_QUIET)]

    def end(self) -> None:
        """Leave the core to others."""
        for request_id in self._live:
            self.core.cancel(request_id)
        self._live, self._steps_left = [], 0

    def _begin_anew(self) -> None:
        self.end()
        requests = list(EngineSide(self.core).requests(self._asked))
        self._live = [request.request_id for request in requests]
        for request in requests:
            endless = replace(request.parameters, ignore_eos_token=True)
            self.core.submit(replace(request, parameters=endless))
        self._steps_left = _LONGEST
        self._quiet()
