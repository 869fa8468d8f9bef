"""What eight decoding requests notice while a cold adapter is loaded beside them.

Each load has its own copy of an adapter folder, so that none was ever seen before.  Inter-token
times within the window of a load stand against those of the quiet steps right before and after;
windows in which nothing is loaded (shams) show the noise.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from lorax_spec import embedded
from lorax_spec.bench.engine_side import EngineSide
from lorax_spec.bench.report import Check, Report, Value
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.statistics import Estimate, median_ratio
from lorax_spec.bench.workload import Prompt, prompts
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.engine import Engine
from lorax_spec.engine.request import Emitted, Event, Failed, Finished
from lorax_spec.types import AdapterRef, Parameters

_ADAPTER = "tests-medusa"
_STREAMS = 8
_STREAM_TOKENS = 1800
_QUIET = 10  # steps
_NINTH_TOKENS = 16
_ALLOWED_RISE = 10.0  # percent


@dataclass(frozen=True)
class Window:
    """Inter-token times in seconds: within, and in the quiet steps on both sides."""

    within: list[float]
    quiet: list[float]


class Streams:
    """Eight requests that decode, and the time from each of their tokens to the next."""

    def __init__(self, core: EngineCore, asked: list[Prompt]) -> None:
        self.core = core
        self._asked = [replace(p, new_tokens=_STREAM_TOKENS) for p in asked]
        self._live: list[int] = []
        self._steps_left = 0
        self._last = 0.0

    def settle(self) -> None:
        """Begin anew where little room is left, and decode until nothing else is going on."""
        if self._steps_left < _STREAM_TOKENS // 4:
            for request_id in self._live:
                self.core.cancel(request_id)
            requests = list(EngineSide(self.core).requests(self._asked))
            self._live = [request.request_id for request in requests]
            for request in requests:
                endless = replace(request.parameters, ignore_eos_token=True)
                self.core.submit(replace(request, parameters=endless))
            self._steps_left = _STREAM_TOKENS
            for _ in range(_QUIET):
                self.step()

    def step(self) -> tuple[float, list[Event]]:
        """(seconds since the streams' last tokens, what came)"""
        events = self.core.step()
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._steps_left -= 1
        return seconds, events

    def quiet(self) -> list[float]:
        return [self.step()[0] for _ in range(_QUIET)]


def measure(settings: Settings) -> Report:
    loads = settings.count(40, 8)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as beside:
        root = Path(folder)
        ids = [f"cold-{number}" for number in range(2 * loads)]
        for adapter_id in ids:
            shutil.copytree(embedded.path() / "adapters" / _ADAPTER, root / adapter_id)
        with Engine(dtype="float32", adapter_root=root) as engine:
            streams = Streams(engine.core, prompts(("code",), _STREAMS, engine.tokenizer))
            _load(streams, _ADAPTER_IN_BUNDLE, beside)  # what the first load of all compiles
            alone, shams = [], []
            for adapter_id in settings.track(ids[:loads], loads, "loads"):
                window = _windowed(streams, lambda i=adapter_id: _load(streams, i, beside))
                steps = len(window.within)
                alone.append(window)
                shams.append(_windowed(streams, lambda n=steps: _sham(streams, n)))
            question = prompts(("tests",), 1, engine.tokenizer)[0]
            ninth = [
                _ninth(streams, adapter_id, question)
                for adapter_id in settings.track(ids[loads:], loads, "a ninth request")
            ]
    return _report(alone, shams, ninth)
