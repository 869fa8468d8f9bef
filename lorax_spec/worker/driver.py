"""One thread owns the engine; the event loop talks to it through an inbox."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from lorax_spec.engine.request import Event, Failed, Finished, TokenRequest
from lorax_spec.errors import InternalError
from lorax_spec.types import AdapterMove
from lorax_spec.wire import WorkerLoad
from lorax_spec.worker.core import Core

logger = logging.getLogger(__name__)

#: Seconds between two looks at the engine's load while it works.
_LOAD_INTERVAL = 0.2

#: Gets what one step gave the requests of a stream, on the event loop.
Sink = Callable[[Sequence[Event]], None]


@dataclass(frozen=True)
class _Owner:
    sink: Sink
    request_id: int


class Driver:
    """Steps the engine while there is work and sleeps while there is none.

    Requests carry ids that are unique to their stream; the driver gives each its own id in the
    engine and maps events back.  All methods but ``run`` belong to the event loop.
    """

    def __init__(
        self,
        core: Core,
        loop: asyncio.AbstractEventLoop,
        *,
        on_load: Callable[[WorkerLoad], None],
        on_exit: Callable[[BaseException | None], None],
        on_moves: Callable[[Sequence[AdapterMove]], None] = lambda moves: None,
    ) -> None:
        """``on_load`` hears of every change of the engine's load, ``on_moves`` what its adapters
        did; ``on_exit`` of the thread's end, with the error where a step failed.  All are called on
        the event loop."""
        self._core = core
        self._loop = loop
        self._on_load = on_load
        self._on_exit = on_exit
        self._on_moves = on_moves
        self._changed = threading.Condition()
        self._inbox: list[Callable[[], None]] = []
        self._woken = False
        self._stopping = False
        self._thread = threading.Thread(target=self.run, name="engine", daemon=True)
        self._ids = itertools.count(1)
        self._owners: dict[int, _Owner] = {}  # by engine id; the event loop's
        self._load = WorkerLoad()  # the engine thread's
        self._load_read = 0.0  # the engine thread's
        core.adapters.set_wakeup(self._wake)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its step.  Requests that still run are forgotten."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    @property
    def idle(self) -> bool:
        return not self._owners

    def submit(self, request: TokenRequest, sink: Sink) -> int:
        """Returns the id to cancel it with."""
        engine_id = next(self._ids)
        self._owners[engine_id] = _Owner(sink, request.request_id)
        self._post(lambda: self._core.submit(replace(request, request_id=engine_id)))
        return engine_id

    def cancel(self, engine_id: int) -> None:
        """No event of this request is delivered from now on."""
        if self._owners.pop(engine_id, None) is not None:
            self._post(lambda: self._core.cancel(engine_id))

    def run(self) -> None:
        """The engine thread."""
        failure: BaseException | None = None
        try:
            while (actions := self._next_actions()) is not None:
                for action in actions:
                    action()
                self._step()
        except Exception as error:
            logger.exception("an engine step failed")
            failure = error
        self._tell(self._exit, failure)

    def _next_actions(self) -> list[Callable[[], None]] | None:
        """What came in; sleeps where there is nothing to do.  None: stop."""
        busy = self._core.has_work  # an adapter that arrives after this look sets _woken
        with self._changed:
            while not (busy or self._inbox or self._woken or self._stopping):
                self._changed.wait()
            actions, self._inbox, self._woken = self._inbox, [], False
            return None if self._stopping else actions

    def _step(self) -> None:
        events = self._core.step() if self._core.has_work else ()
        load = self._look() if self._time_to_look() else None
        if events or load is not None:
            self._tell(self._deliver, events, load)

    def _time_to_look(self) -> bool:
        """While there is work, the engine is only looked at now and then."""
        now = time.monotonic()
        if now - self._load_read < _LOAD_INTERVAL and self._core.has_work:
            return False
        self._load_read = now
        return True

    def _look(self) -> WorkerLoad | None:
        """The load where it changed; what adapters did is told at once."""
        if moves := self._core.adapters.take_moves():
            self._tell(self._on_moves, moves)
        running, waiting, free_tokens, adapters = self._core.load_figures()
        load = WorkerLoad(running, waiting, free_tokens, tuple(adapters))
        if load == self._load:
            return None
        self._load = load
        return load

    def _post(self, action: Callable[[], None]) -> None:
        with self._changed:
            self._inbox.append(action)
            self._changed.notify()

    def _wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify()

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _deliver(self, events: Iterable[Event], load: WorkerLoad | None) -> None:
        batches: dict[Sink, list[Event]] = {}
        for event in events:
            owner = self._owners.get(event.request_id)
            if owner is None:
                continue
            if isinstance(event, Finished | Failed):
                del self._owners[event.request_id]
            batch = batches.setdefault(owner.sink, [])
            batch.append(replace(event, request_id=owner.request_id))
        for sink, batch in batches.items():
            sink(batch)
        if load is not None:
            self._on_load(load)

    def _exit(self, failure: BaseException | None) -> None:
        """A broken engine fails its requests; a stopped one leaves them to the stream's end, after
        which the router takes them elsewhere."""
        if failure is not None:
            error = InternalError(f"the engine failed: {failure}")
            self._deliver([Failed(engine_id, error) for engine_id in self._owners], None)
        self._owners.clear()
        self._on_exit(failure)
