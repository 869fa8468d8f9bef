"""What waits for a router: together, in order, the newest load, and an end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from lorax_spec.engine.request import Emitted, Event
from lorax_spec.types import AdapterMove, SpeculationDetails
from lorax_spec.wire import WorkerLoad, WorkerReport
from lorax_spec.worker.outbox import Outbox


def events(count: int, start: int = 0) -> list[Event]:
    return [Emitted(start + n, (), SpeculationDetails()) for n in range(count)]


def drive(test: Callable[[Outbox], Awaitable[None]]) -> None:
    """With the first load taken."""

    async def main() -> None:
        async with asyncio.timeout(5):
            outbox = Outbox(WorkerLoad(1))
            assert await outbox.take() == WorkerReport((), WorkerLoad(1))
            await test(outbox)

    asyncio.run(main())


def test_what_could_not_be_sent_yet_goes_together() -> None:
    async def test(outbox: Outbox) -> None:
        outbox.add(events(2))
        outbox.tell(WorkerLoad(2))
        outbox.add(events(3, start=2))
        outbox.tell(WorkerLoad(3))
        assert await outbox.take() == WorkerReport(tuple(events(5)), WorkerLoad(3))
        waiting = asyncio.ensure_future(outbox.take())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        outbox.add(events(1))
        assert await waiting == WorkerReport(tuple(events(1)), None)
        outbox.add_moves([AdapterMove("a", "read", 0.5)])
        outbox.add_moves([AdapterMove("a", "copy", 0.1)])
        moves = (AdapterMove("a", "read", 0.5), AdapterMove("a", "copy", 0.1))
        assert await outbox.take() == WorkerReport((), None, moves)

    drive(test)


def test_a_router_that_sleeps_gets_no_endless_message() -> None:
    async def test(outbox: Outbox) -> None:
        outbox.add(events(5000))
        outbox.end()
        found: list[Event] = []
        while (report := await outbox.take()) is not None:
            assert len(report.events) <= 1024
            found += report.events
        assert found == events(5000)
        assert await outbox.take() is None

    drive(test)


def test_the_end_wakes_who_waits() -> None:
    async def test(outbox: Outbox) -> None:
        waiting = asyncio.ensure_future(outbox.take())
        await asyncio.sleep(0)
        outbox.end()
        assert await waiting is None

    drive(test)
