"""What the ways to ask a server cost: between tokens, in the router's processor time, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import grpc.aio

from lorax_spec.bench.http_callers import WAYS, Ask, Heard, Way, together
from lorax_spec.bench.http_servers import Server
from lorax_spec.bench.pairs import Run

#: Seconds between two looks at the router's memory.
_LOOK = 0.02


@dataclass(frozen=True)
class Crowd:
    """What a crowd of streams got of a router, and took of it."""

    asks: Sequence[Ask]
    heard: Sequence[Heard]
    cpu_seconds: float
    #: Bytes resident before, and the most meanwhile.
    idle: int
    peak: int

    @property
    def tokens(self) -> int:
        return sum(ask.tokens for ask in self.asks)

    @property
    def complete(self) -> int:
        """Streams with an event for each of their tokens; OpenAI's end in another."""
        return sum(one.events >= ask.tokens for ask, one in zip(self.asks, self.heard, strict=True))

    @property
    def seconds(self) -> float:
        """From the first request to the last token."""
        return max(one.last for one in self.heard) - min(one.asked for one in self.heard)


class Callers:
    """Asks one server, over one gRPC channel and as many HTTP connections as it needs."""

    def __init__(self, server: Server, runner: asyncio.Runner) -> None:
        self._server = server
        self._runner = runner
        self._channel = runner.run(_open(server.grpc))

    def side(self, name: str) -> Callable[[Sequence[Ask]], Run]:
        """One way to ask as a side of pairs: ``seconds`` are those from each answer's first token
        to its last, ``cpu_seconds`` the router's."""

        def ask(asks: Sequence[Ask]) -> Run:
            crowd = self.crowd(name, asks)
            seconds = sum(one.last - one.first for one in crowd.heard)
            outputs = tuple(one.tokens for one in crowd.heard)
            return Run(outputs, seconds, crowd.cpu_seconds)

        return ask

    def crowd(self, name: str, asks: Sequence[Ask]) -> Crowd:
        """All at once.  Raises ConnectionError or AioRpcError where one is not answered."""
        before = self._server.cpu_seconds
        heard, idle, peak = self._runner.run(self._ask(WAYS[name], asks))
        return Crowd(asks, heard, self._server.cpu_seconds - before, idle, peak)

    def close(self) -> None:
        self._runner.run(self._channel.close(None))

    async def _ask(self, way: Way, asks: Sequence[Ask]) -> tuple[list[Heard], int, int]:
        seen = [self._server.router.memory_info().rss]
        watching = asyncio.create_task(self._watch(seen))
        heard = await together(way, self._channel, self._server.http, asks)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        return heard, seen[0], max(seen)

    async def _watch(self, seen: list[int]) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            seen.append(self._server.router.memory_info().rss)


@contextmanager
def calling(server: Server) -> Iterator[Callers]:
    with asyncio.Runner() as runner:
        callers = Callers(server, runner)
        try:
            yield callers
        finally:
            callers.close()


async def _open(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address)
