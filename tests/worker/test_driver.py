"""The engine thread: who gets what, when it sleeps, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from lorax_spec.engine.request import Emitted, Event, Failed, Finished, TokenRequest
from lorax_spec.errors import AdapterNotFound, InternalError
from lorax_spec.types import AdapterRef, Parameters
from lorax_spec.wire import WorkerLoad
from lorax_spec.worker.driver import Driver
from tests.text.samples import TOKENIZER
from tests.worker.fake_core import POISON, FakeCore, script


@dataclass
class Bench:
    core: FakeCore
    driver: Driver
    loads: list[WorkerLoad]
    exited: asyncio.Future[BaseException | None]
    inboxes: dict[int, asyncio.Queue[Event]] = field(default_factory=dict)
    batches: list[Sequence[Event]] = field(default_factory=list)

    def submit(self, request_id: int, text: str, count: int, adapter: str = "") -> int:
        self.inboxes.setdefault(request_id, asyncio.Queue())
        request = TokenRequest(
            request_id,
            tuple(TOKENIZER.encode(text)),
            Parameters(max_new_tokens=count),
            adapter=AdapterRef(adapter) if adapter else None,
        )
        return self.driver.submit(request, self.take)

    def take(self, events: Sequence[Event]) -> None:
        self.batches.append(events)
        for event in events:
            self.inboxes[event.request_id].put_nowait(event)

    async def events(self, request_id: int) -> list[Event]:
        """Up to and with the last."""
        events: list[Event] = []
        while not events or isinstance(events[-1], Emitted):
            events.append(await self.inboxes[request_id].get())
        return events


@asynccontextmanager
async def bench(core: FakeCore) -> AsyncIterator[Bench]:
    loop = asyncio.get_running_loop()
    loads: list[WorkerLoad] = []
    exited: asyncio.Future[BaseException | None] = loop.create_future()
    driver = Driver(core, loop, on_load=loads.append, on_exit=exited.set_result)
    driver.start()
    try:
        async with asyncio.timeout(20):
            yield Bench(core, driver, loads, exited)
    finally:
        driver.stop()
        await exited


def ids(events: list[Event]) -> list[int]:
    return [token.id for event in events if isinstance(event, Emitted) for token in event.tokens]


def drive(test: Callable[[Bench], Awaitable[None]], core: FakeCore | None = None) -> None:
    async def main() -> None:
        async with bench(core or FakeCore()) as running:
            await test(running)

    asyncio.run(main())


def test_every_request_gets_its_own_tokens() -> None:
    async def test(bench: Bench) -> None:
        for number in range(20):
            bench.submit(number, f"x{number}", 9)
        for number in range(20):
            events = await bench.events(number)
            assert ids(events) == script(f"x{number}", 9)
            assert isinstance(events[-1], Finished)
            assert {event.request_id for event in events} == {number}
        assert bench.driver.idle
        assert bench.core.most_running > 1

    drive(test, FakeCore(step_seconds=0.001))


def test_two_streams_may_use_the_same_ids() -> None:
    async def test(bench: Bench) -> None:
        first: list[Event] = []
        request = TokenRequest(1, (5,), Parameters(max_new_tokens=4))
        bench.driver.submit(request, first.extend)
        bench.submit(1, "other", 4)
        assert ids(await bench.events(1)) == script("other", 4)
        assert len(first) == 3

    drive(test)


def test_what_a_step_gave_comes_at_once() -> None:
    async def test(bench: Bench) -> None:
        for number in range(5):
            bench.submit(number, f"x{number}", 100)
        for number in range(5):
            await bench.events(number)
        assert sum(map(len, bench.batches)) == 5 * 51
        assert len(bench.batches) <= bench.core.steps

    drive(test, FakeCore(step_seconds=0.001))


def test_it_sleeps_while_there_is_nothing_to_do() -> None:
    async def test(bench: Bench) -> None:
        bench.submit(1, "x", 4)
        await bench.events(1)
        steps = bench.core.steps
        await asyncio.sleep(0.1)
        assert bench.core.steps == steps == 2

    drive(test)


def test_an_adapter_that_arrives_wakes_it() -> None:
    async def test(bench: Bench) -> None:
        bench.submit(1, "x", 4, "demo/a")
        bench.submit(2, "y", 4)
        assert ids(await bench.events(2)) == script("y", 4)
        assert bench.inboxes[1].empty()
        assert ids(await bench.events(1)) == script("x", 4)

    drive(test, FakeCore(adapter_seconds=0.2))


class _LateCore(FakeCore):
    """Its adapter arrives just after the driver has looked for work, so many times in vain."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = looks

    @property
    def has_work(self) -> bool:
        found = super().has_work
        if self.waiting and not found:
            self._looks -= 1
            if self._looks == 0:
                self.adapters.load(AdapterRef("demo/late"))
        return found

    def submit(self, request: TokenRequest) -> None:
        self.waiting[request.request_id] = request


@pytest.mark.parametrize("looks", [1, 2])
def test_an_adapter_that_arrives_as_it_falls_asleep_wakes_it(looks: int) -> None:
    async def test(bench: Bench) -> None:
        bench.submit(1, "x", 4, "demo/late")
        assert ids(await bench.events(1)) == script("x", 4)

    drive(test, _LateCore(looks))


def test_an_adapter_that_fails_ends_only_its_request() -> None:
    async def test(bench: Bench) -> None:
        bench.submit(1, "x", 4, "other/a")
        bench.submit(2, "y", 4)
        [failed] = await bench.events(1)
        assert isinstance(failed, Failed) and isinstance(failed.error, AdapterNotFound)
        assert isinstance((await bench.events(2))[-1], Finished)

    drive(test)


def test_a_cancelled_request_says_no_more() -> None:
    async def test(bench: Bench) -> None:
        driver_id = bench.submit(1, "x", 1000)
        await bench.inboxes[1].get()
        bench.driver.cancel(driver_id)
        bench.driver.cancel(driver_id)
        seen = bench.inboxes[1].qsize()
        bench.submit(2, "y", 4)
        await bench.events(2)
        assert bench.inboxes[1].qsize() == seen
        assert bench.core.cancelled == [driver_id] and not bench.core.running

    drive(test, FakeCore(step_seconds=0.001))


def test_load_is_told_when_it_changes() -> None:
    async def test(bench: Bench) -> None:
        bench.submit(1, "x", 300)
        await bench.events(1)
        await asyncio.sleep(0.05)
        assert any(load.running == 1 for load in bench.loads)
        assert bench.loads[-1].running == 0
        assert all(one != other for one, other in zip(bench.loads, bench.loads[1:], strict=False))

    drive(test, FakeCore(step_seconds=0.002))


def test_a_broken_engine_fails_every_request_and_says_so() -> None:
    async def test(bench: Bench) -> None:
        bench.submit(1, "x", 1000)
        await bench.inboxes[1].get()
        bench.submit(2, POISON, 4)
        for number in (1, 2):
            failed = (await bench.events(number))[-1]
            assert isinstance(failed, Failed) and isinstance(failed.error, InternalError)
        assert isinstance(await bench.exited, RuntimeError)

    drive(test, FakeCore(step_seconds=0.001))
