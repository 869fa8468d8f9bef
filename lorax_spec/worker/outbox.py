"""What is to be sent to one router."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from lorax_spec.engine.request import Event
from lorax_spec.types import AdapterMove
from lorax_spec.wire import WorkerLoad, WorkerReport

#: Events in one message, and moves, which must not outgrow what a router receives.
_MOST_EVENTS = 1024


class Outbox:
    """Collects what happens until it can be sent, so that a step costs one message to a router
    that keeps up, and less to one that does not."""

    def __init__(self, load: WorkerLoad) -> None:
        self._events: list[Event] = []
        self._load: WorkerLoad | None = load
        self._moves: list[AdapterMove] = []
        self._ended = False
        self._filled = asyncio.Event()
        self._filled.set()

    def add(self, events: Sequence[Event]) -> None:
        self._events += events
        self._filled.set()

    def tell(self, load: WorkerLoad) -> None:
        """Replaces a load that was not sent yet."""
        self._load = load
        self._filled.set()

    def add_moves(self, moves: Sequence[AdapterMove]) -> None:
        self._moves += moves
        self._filled.set()

    def end(self) -> None:
        """Nothing more will be put in."""
        self._ended = True
        self._filled.set()

    async def take(self) -> WorkerReport | None:
        """What is there, as soon as there is anything; None at the end."""
        await self._filled.wait()
        if not self._events and self._load is None and not self._moves:
            return None
        report = WorkerReport(
            tuple(self._events[:_MOST_EVENTS]), self._load, tuple(self._moves[:_MOST_EVENTS])
        )
        del self._events[:_MOST_EVENTS]
        del self._moves[:_MOST_EVENTS]
        self._load = None
        if not self._events and not self._moves and not self._ended:
            self._filled.clear()
        return report
