"""Streams wait for their readers, tell errors where they still can, and end with their callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from starlette.requests import Request

from lorax_spec.errors import AdapterNotFound, LoraxSpecError, RequestCancelled
from lorax_spec.router.web import sse


class Caller:
    """An ASGI connection whose reader takes ``room`` messages, and more when told to."""

    def __init__(self, room: int) -> None:
        self.sent: list[bytes] = []
        self.status = 0
        self.gone = asyncio.Event()
        self._room = asyncio.Semaphore(room)
        self.request = Request({"type": "http", "headers": []}, self.receive)

    def read(self, count: int) -> None:
        for _ in range(count):
            self._room.release()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        await self._room.acquire()
        self.sent.append(message["body"])


class Source:
    def __init__(self, error: LoraxSpecError | None = None, after: int = 10**6) -> None:
        self.made = 0
        self.ended = False
        self._error = error
        self._after = after

    async def chunks(self) -> AsyncGenerator[bytes]:
        try:
            while self.made < self._after:
                self.made += 1
                yield sse.event(str(self.made))
                await asyncio.sleep(0)
            if self._error is not None:
                raise self._error
        finally:
            self.ended = True


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.001)


async def serve(caller: Caller, source: Source) -> None:
    stream = await sse.begin(caller.request, source.chunks(), lambda error: error.message)
    await stream(caller.request.scope, caller.receive, caller.send)  # type: ignore[arg-type]


def test_what_nobody_reads_is_not_made() -> None:
    async def test() -> None:
        caller, source = Caller(room=3), Source()
        serving = asyncio.create_task(serve(caller, source))
        await until(lambda: len(caller.sent) == 3)
        await asyncio.sleep(0.05)
        assert source.made == 4, "one more waits to be taken"
        caller.read(5)
        await until(lambda: len(caller.sent) == 8)
        await asyncio.sleep(0.05)
        assert source.made == 9
        caller.gone.set()
        await asyncio.wait_for(serving, 5)
        assert source.ended

    asyncio.run(test())


@pytest.mark.parametrize("after", [0, 2])
def test_an_error_is_a_status_before_the_first_event_and_an_event_after(after: int) -> None:
    async def test() -> None:
        caller, source = Caller(room=9), Source(AdapterNotFound("no such"), after)
        if after == 0:
            with pytest.raises(AdapterNotFound):
                await serve(caller, source)
            assert caller.status == 0
        else:
            await serve(caller, source)
            assert caller.status == 200
            assert caller.sent == [b"data: 1\n\n", b"data: 2\n\n", b"data: no such\n\n", b""]
        assert source.ended

    asyncio.run(test())


def test_who_leaves_before_the_first_event_is_heard() -> None:
    async def test() -> None:
        ended = asyncio.Event()

        async def never() -> AsyncGenerator[bytes]:
            try:
                await asyncio.sleep(60)
                yield b""
            finally:
                ended.set()

        caller = Caller(room=9)
        beginning = asyncio.create_task(sse.begin(caller.request, never(), str))
        await asyncio.sleep(0.01)
        caller.gone.set()
        with pytest.raises(RequestCancelled):
            await beginning
        assert ended.is_set()

    asyncio.run(test())


def test_a_long_wait_is_begun_and_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_PATIENCE", 0.02)

    async def test() -> None:
        async def slow() -> AsyncGenerator[bytes]:
            await asyncio.sleep(0.1)
            yield sse.event("late")

        caller = Caller(room=99)
        stream = await sse.begin(caller.request, slow(), str)
        await stream(caller.request.scope, caller.receive, caller.send)  # type: ignore[arg-type]
        *waiting, late, end = caller.sent
        assert (caller.status, late, end) == (200, b"data: late\n\n", b"")
        assert len(waiting) >= 2 and all(line.startswith(b":") for line in waiting)

    asyncio.run(test())


def test_a_reader_who_never_reads_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_STUCK", 0.05)

    async def test() -> None:
        caller, source = Caller(room=2), Source()
        await asyncio.wait_for(serve(caller, source), 5)
        assert source.ended and len(caller.sent) == 2

    asyncio.run(test())
