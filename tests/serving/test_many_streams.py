"""Five hundred streams at once over HTTP, among them callers who read slowly, or leave."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.processes import eventually
from tests.serving.web import ask, web_router
from tests.text.samples import TOKENIZER
from tests.worker.fake_core import script
from tests.worker.processes import fake_worker

pytestmark = pytest.mark.slow

MANY, LENGTH = 500, 40
#: Of the crowd that is timed beside slow readers.
OTHERS = 100
#: An answer that fills every buffer on its way: some 5 MB, and what the kernel keeps is below 4.
LONG, WIDE = 1500, 100
#: Bytes; the least that the kernel gives.
NARROW = 4096
SLOW = 4
#: Seconds in which what should happen soon has happened.
SOON = 15


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with (
        fake_worker(step_seconds=0.005) as (_, worker),
        web_router(worker, max_concurrent_requests=2 * MANY) as address,
    ):
        yield address


class Caller:
    """A plain socket: what is not read stays where it is."""

    def __init__(self, address: str, buffer: int | None = None) -> None:
        host, _, port = address.rpartition(":")
        self._address = host, int(port)
        self._socket = socket.socket()
        if buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._socket.setblocking(False)
        self.content = b""

    async def ask(self, prompt: str, tokens: int, alternatives: int | None = None) -> None:
        parameters = {"max_new_tokens": tokens, "return_k_alternatives": alternatives}
        body = json.dumps({"inputs": prompt, "parameters": parameters}).encode()
        head = "POST /generate_stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, self._address)
        message = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        await loop.sock_sendall(self._socket, message)

    async def read(self, most: int = 2**16) -> bytes:
        came = await asyncio.get_running_loop().sock_recv(self._socket, most)
        self.content += came
        return came

    async def read_first_event(self) -> None:
        while b"data: " not in self.content:
            assert await self.read(256), self.content

    async def read_to_the_end(self) -> str:
        """The text of all events together."""
        while not self.content.endswith(b"0\r\n\r\n"):
            assert await self.read(), self.content[-200:]
        assert self.content.startswith(b"HTTP/1.1 200 "), self.content
        lines = [line for line in self.content.splitlines() if line.startswith(b"data: ")]
        events = [json.loads(line.removeprefix(b"data: ")) for line in lines]
        assert events[-1]["details"]["finish_reason"] == "length"
        return "".join(event["token"]["text"] for event in events)

    def leave(self, rudely: bool = False) -> None:
        """By a reset where ``rudely``."""
        if rudely:
            linger = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._socket.close()


def expected(prompt: str, count: int) -> str:
    return TOKENIZER.decode(script(prompt, count))


async def crowd(address: str, size: int) -> float:
    """Seconds until all of them have their whole text."""

    async def one(number: int) -> None:
        caller = Caller(address)
        try:
            await caller.ask(f"x{number}", LENGTH)
            assert await caller.read_to_the_end() == expected(f"x{number}", LENGTH)
        finally:
            caller.leave()

    began = time.monotonic()
    async with asyncio.timeout(60):
        await asyncio.gather(*map(one, range(size)))
    return time.monotonic() - began


def figure(address: str, name: str, **labels: str) -> float:
    text = ask(address, "/metrics").content.decode()
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert found or labels, name  # an outcome that nothing has had yet is no figure
    return sum(found)


def inside(address: str) -> float:
    return figure(address, "lorax_spec_requests_in_progress")


def test_all_complete(address: str) -> None:
    served = figure(address, "lorax_spec_requests_total", outcome="ok")
    asyncio.run(crowd(address, MANY))
    eventually(lambda: inside(address) == 0, SOON)
    assert figure(address, "lorax_spec_requests_total", outcome="ok") == served + MANY


def test_slow_readers_hold_up_nobody(address: str) -> None:
    async def main() -> None:
        alone = [await crowd(address, OTHERS) for _ in range(3)]
        with ExitStack() as leaving:
            slow = [Caller(address, NARROW) for _ in range(2 * SLOW)]
            for number, caller in enumerate(slow):
                leaving.callback(caller.leave)
                await caller.ask(f"slow {number}", LONG, WIDE)
                await caller.read_first_event()
            reading = [asyncio.create_task(bytewise(caller)) for caller in slow[:SLOW]]
            await asyncio.to_thread(engine_is_done)
            assert inside(address) == 2 * SLOW, "the engine is done with them, the router is not"
            before = [len(caller.content) for caller in slow]
            beside = [await crowd(address, OTHERS) for _ in range(3)]
            assert inside(address) == 2 * SLOW, "they are still there"
            for caller, length in zip(slow[:SLOW], before, strict=False):
                assert len(caller.content) > length, "a slow reader gets on too"
            for task in reading:
                task.cancel()
            # Held up, they would wait for readers that take minutes.
            assert min(beside) < 4 * min(alone) + 2.0, (alone, beside)

    def engine_is_done() -> None:
        eventually(lambda: figure(address, "lorax_spec_worker_running") == 0)

    async def bytewise(caller: Caller) -> None:
        while await caller.read(1):
            await asyncio.sleep(0.01)

    asyncio.run(main())
    eventually(lambda: inside(address) == 0, SOON)


def test_the_abandoned_are_freed(address: str) -> None:
    """Their answers alone would take the engine far longer."""
    left = figure(address, "lorax_spec_requests_total", outcome="cancelled")

    async def main() -> None:
        callers = [Caller(address) for _ in range(OTHERS)]
        await asyncio.gather(*(one.ask(f"y{n}", 1900) for n, one in enumerate(callers)))
        await asyncio.gather(*(one.read_first_event() for one in callers))
        assert inside(address) == OTHERS
        for number, caller in enumerate(callers):
            caller.leave(rudely=number % 2 == 0)

    asyncio.run(main())
    eventually(lambda: inside(address) == 0, SOON)
    eventually(lambda: figure(address, "lorax_spec_worker_running") == 0, SOON)
    assert figure(address, "lorax_spec_requests_total", outcome="cancelled") == left + OTHERS
    asyncio.run(crowd(address, 8))
