"""Callers over HTTP and gRPC that do as little as they can: bytes come, and when they came."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import grpc.aio

from lorax_spec.v1 import lorax_spec_pb2 as pb

_METHOD = f"/{pb.DESCRIPTOR.services_by_name['LoraxSpec'].full_name}/GenerateStream"
_EVENT, _END = b"data: {", b"0\r\n\r\n"


@dataclass(frozen=True)
class Ask:
    """A prompt and how many tokens to answer it with, past any end token."""

    prompt: str
    tokens: int


@dataclass(frozen=True)
class Heard:
    """``asked``, ``first`` and ``last``: when the request was sent, and when the first and the
    last of its tokens came; ``tokens``: their ids, empty where the way does not tell them."""

    asked: float
    first: float
    last: float
    events: int
    tokens: tuple[int, ...]


#: Asks one, over a channel (gRPC) or at an address (HTTP).
Way = Callable[[grpc.aio.Channel, str, Ask], Awaitable[Heard]]


async def over_grpc(channel: grpc.aio.Channel, address: str, ask: Ask) -> Heard:
    """Raises AioRpcError where it fails."""
    parameters = pb.Parameters(max_new_tokens=ask.tokens, ignore_eos_token=True)
    request = pb.GenerateRequest(inputs=ask.prompt, parameters=parameters)
    asked = perf_counter()
    call = channel.unary_stream(_METHOD, None, None)(request.SerializeToString())
    came: list[tuple[float, bytes]] = [(perf_counter(), message) async for message in call]
    messages = [pb.GenerateStreamResponse.FromString(content) for _, content in came]
    ids = tuple(message.token.id for message in messages if message.HasField("token"))
    return Heard(asked, came[0][0], came[-1][0], len(ids), ids)


async def over_lorax(channel: grpc.aio.Channel, address: str, ask: Ask) -> Heard:
    parameters = {"max_new_tokens": ask.tokens, "ignore_eos_token": True}
    body = {"inputs": ask.prompt, "parameters": parameters}
    connection = await _post(address, "/generate_stream", body)
    answers = [json.loads(line) for line in connection.events()]
    ids = tuple(answer["token"]["id"] for answer in answers)
    return connection.heard(len(ids), ids)


async def over_completions(channel: grpc.aio.Channel, address: str, ask: Ask) -> Heard:
    body = {"model": "", "prompt": ask.prompt, **_openai(ask)}
    connection = await _post(address, "/v1/completions", body)
    return connection.heard(len(connection.events()), ())


async def over_chat(channel: grpc.aio.Channel, address: str, ask: Ask) -> Heard:
    body = {"model": "", "messages": [{"role": "user", "content": ask.prompt}], **_openai(ask)}
    connection = await _post(address, "/v1/chat/completions", body)
    return connection.heard(len(connection.events()), ())


#: HTTP alone is /generate_stream; the last two are OpenAI's.
WAYS: Mapping[str, Way] = {
    "gRPC": over_grpc,
    "HTTP": over_lorax,
    "completions": over_completions,
    "chat": over_chat,
}


async def together(
    way: Way, channel: grpc.aio.Channel, address: str, asks: Sequence[Ask]
) -> list[Heard]:
    """All of them at the same time.  Raises the first error of any."""
    return await asyncio.gather(*(way(channel, address, ask) for ask in asks))


def _openai(ask: Ask) -> dict[str, Any]:
    """Greedy, as the others are unless they are told to sample."""
    return {
        "max_tokens": ask.tokens,
        "temperature": 0,
        "ignore_eos_token": True,
        "stream": True,
    }


class _Connection(asyncio.Protocol):
    def __init__(self, asked: float) -> None:
        self.asked = asked
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._came: list[tuple[float, bytes]] = []

    def data_received(self, data: bytes) -> None:
        self._came.append((perf_counter(), data))

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set_result(None)

    def events(self) -> list[str]:
        """What they hold.  Raises ConnectionError for an answer that is no stream, or not whole."""
        content = b"".join(data for _, data in self._came)
        head, _, body = content.partition(b"\r\n\r\n")
        if b" 200 " not in head.partition(b"\r\n")[0] or not body.endswith(_END):
            raise ConnectionError(content.decode(errors="replace"))
        blocks = _unchunked(body).decode().split("\n\n")
        lines = [block.removeprefix("data: ") for block in blocks]
        return [line for line in lines if line.startswith("{")]

    def heard(self, events: int, tokens: tuple[int, ...]) -> Heard:
        times = [time for time, data in self._came if _EVENT in data]
        return Heard(self.asked, times[0], times[-1], events, tokens)


async def _post(address: str, path: str, body: Mapping[str, Any]) -> _Connection:
    """A connection of its own, once all of the answer has come."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    host, _, port = address.rpartition(":")
    asked = perf_counter()
    transport, connection = await asyncio.get_running_loop().create_connection(
        lambda: _Connection(asked), host, int(port)
    )
    try:
        transport.write(head.encode() + content)
        await connection.ended
    finally:
        transport.close()
    return connection


def _unchunked(body: bytes) -> bytes:
    parts = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        parts.append(rest[:length])
        body = rest[length + 2 :] if length else b""
    return b"".join(parts)
