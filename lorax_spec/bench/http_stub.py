"""``python -m lorax_spec.bench.http_stub SECONDS``: a worker whose engine costs nothing.

Every request gets its first token at once and then one with each step, SECONDS apart, so that what
is measured behind it is the router's.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from lorax_spec import embedded
from lorax_spec.engine.request import Emitted, EmittedToken, Event, Finished, TokenRequest
from lorax_spec.errors import AdapterNotFound
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.types import (
    AdapterChat,
    AdapterInfo,
    AdapterMove,
    AdapterRef,
    FinishReason,
    Info,
    SpeculationDetails,
    Timings,
)
from lorax_spec.worker.server import WorkerConfig, serve_worker

_TEXT = "def value(self, name):\n    return [name + x for x in range(10)]\n"
_LONGEST = 4096
#: Seconds between two looks for requests that have come, while a step is not due.
_LOOK = 0.001


class _NoAdapters:
    def list(self) -> Sequence[AdapterInfo]:
        return ()

    def load(self, ref: AdapterRef, timeout: float | None, wait: bool) -> AdapterInfo:
        raise AdapterNotFound("the stub has no adapters")

    def unload(self, adapter_id: str) -> object:
        raise AdapterNotFound("the stub has no adapters")

    def pin(self, adapter_id: str, pinned: bool, timeout: float | None) -> AdapterInfo:
        raise AdapterNotFound("the stub has no adapters")

    def chat(self, ref: AdapterRef) -> Future[AdapterChat]:
        raise AdapterNotFound("the stub has no adapters")

    def take_moves(self) -> Sequence[AdapterMove]:
        return ()

    def set_wakeup(self, callback: Callable[[], None]) -> None:
        """Nothing ever waits for an adapter."""


@dataclass
class _Running:
    request: TokenRequest
    done: int = 0


class StubCore:
    """Answers everything with the same text over and over."""

    def __init__(self, step_seconds: float) -> None:
        folder = embedded.path() / "base"
        self.adapters = _NoAdapters()
        self.info = Info(
            version="0",
            model_id="stub",
            model_revision="",
            dtype="float32",
            device="cpu",
            max_input_length=_LONGEST // 2,
            max_total_tokens=_LONGEST,
            max_concurrent_requests=0,
            speculative_tokens=0,
            deterministic=True,
            default_adapter_id="",
            workers=1,
            max_batch_total_tokens=2**20,
            block_size=16,
            model_path=str(folder),
        )
        self._ids = itertools.cycle(TextTokenizer.load(folder).encode(_TEXT))
        self._step_seconds = step_seconds
        self._due = 0.0
        self._new: dict[int, _Running] = {}
        self._running: dict[int, _Running] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._new or self._running)

    def submit(self, request: TokenRequest) -> None:
        self._new[request.request_id] = _Running(request, len(request.generated))

    def cancel(self, request_id: int) -> None:
        self._new.pop(request_id, None)
        self._running.pop(request_id, None)

    def step(self) -> Sequence[Event]:
        now = time.monotonic()
        chosen = [*self._new.values()]
        if now >= self._due:
            self._due = now + self._step_seconds
            chosen += self._running.values()
        elif not chosen:
            time.sleep(min(_LOOK, self._due - now))
        self._running.update(self._new)
        self._new.clear()
        return [event for one in chosen for event in self._advance(one)]

    def load_figures(self) -> tuple[int, int, int, Sequence[str]]:
        return len(self._running), len(self._new), self.info.max_batch_total_tokens, ()

    def close(self) -> None:
        self._running.clear()

    def _advance(self, one: _Running) -> list[Event]:
        one.done += 1
        request_id = one.request.request_id
        counts = SpeculationDetails(forward_passes=one.done)
        token = EmittedToken(next(self._ids), -1.0)
        events: list[Event] = [Emitted(request_id, (token,), counts)]
        if one.done >= (one.request.parameters.max_new_tokens or 0):
            del self._running[request_id]
            events.append(Finished(request_id, FinishReason.LENGTH, counts, Timings()))
        return events


def main() -> int:
    step_seconds = float(sys.argv[1])
    return serve_worker(
        WorkerConfig(),
        lambda: StubCore(step_seconds),
        lambda address: print(f"ready {address}", flush=True),
    )


if __name__ == "__main__":
    sys.exit(main())
