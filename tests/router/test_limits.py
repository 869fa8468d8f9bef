"""Bodies and headers that are too large, over real connections to the real app; pages' origins."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from lorax_spec.router.web.limits import Limits
from tests.router.house import House, house, request
from tests.worker.processes import fake_worker

MOST = 20_000
ORIGIN = "https://page.example"
BODY = json.dumps({"inputs": "x", "parameters": {"max_new_tokens": 4}}).encode()
JSON = "content-type: application/json"
Within = Callable[[Callable[[House], Awaitable[None]]], None]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@pytest.fixture(scope="module")
def worker() -> Iterator[str]:
    with fake_worker(step_seconds=0.001) as (_, address):
        yield address


@pytest.fixture
def within(worker: str) -> Within:
    def run(test: Callable[[House], Awaitable[None]]) -> None:
        async def main() -> None:
            options: dict[str, Any] = {
                "http_port": 0,
                "max_request_bytes": MOST,
                "cors_origins": (ORIGIN,),
            }
            async with house(worker, **options) as running:
                await test(running)

        asyncio.run(main())

    return run


@asynccontextmanager
async def connection(
    house: House,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = house.router.http.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> Answer:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Answer(int(first.split()[1]), headers, body)


def head(path: str, *headers: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: x", *headers, "", ""]).encode()


async def post(house: House, path: str, body: bytes, *headers: str) -> Answer:
    async with connection(house) as (reader, writer):
        writer.write(head(path, JSON, f"content-length: {len(body)}", *headers) + body)
        return await answer(reader)


def chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


def padded(size: int) -> bytes:
    """A request of so many bytes."""
    return BODY[:-1] + b" " * (size - len(BODY)) + b"}"


def test_a_body_up_to_the_limit(within: Within) -> None:
    async def test(house: House) -> None:
        assert (await post(house, "/generate", padded(MOST))).status == 200
        large = await post(house, "/generate", padded(MOST + 1))
        assert large.status == 413
        assert large.json["error_type"] == "validation" and str(MOST) in large.json["error"]
        assert large.headers["connection"] == "close"
        openai = await post(house, "/v1/completions", padded(MOST + 1))
        assert openai.status == 413
        assert openai.json["error"]["type"] == "invalid_request_error"
        refused = "lorax_spec_refused_requests_total"
        assert house.router.metrics.value(refused, reason="body_too_large") == 2

    within(test)


def test_what_is_announced_is_refused_before_it_is_sent(within: Within) -> None:
    async def test(house: House) -> None:
        async with connection(house) as (reader, writer):
            writer.write(head("/generate", JSON, f"content-length: {10**12}"))
            assert (await answer(reader)).status == 413
            assert await reader.read() == b"", "the connection is closed"

    within(test)


def test_who_sends_all_of_it_first_reads_why(within: Within) -> None:
    async def test(house: House) -> None:
        large = b" " * 8 * 2**20
        assert (await post(house, "/generate", large)).status == 413
        async with connection(house) as (reader, writer):
            writer.write(head("/generate", JSON, "transfer-encoding: chunked"))
            for start in range(0, len(large), 2**16):
                writer.write(chunk(large[start : start + 2**16]))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            assert (await answer(reader)).status == 413

    within(test)


def test_chunks_without_a_length_are_counted(within: Within) -> None:
    async def test(house: House) -> None:
        async with connection(house) as (reader, writer):
            writer.write(head("/generate", JSON, "transfer-encoding: chunked"))
            for start in range(0, len(BODY), 10):
                writer.write(chunk(BODY[start : start + 10]))
            writer.write(b"0\r\n\r\n")
            assert (await answer(reader)).json["generated_text"]
        async with connection(house) as (reader, writer):
            writer.write(head("/generate", JSON, "transfer-encoding: chunked"))
            for _ in range(30):
                writer.write(chunk(b" " * 1000))
            await writer.drain()
            refused = await answer(reader)  # though the body has not ended
            assert refused.status == 413 and refused.json["error_type"] == "validation"
            assert await reader.read() == b""
        assert (await post(house, "/generate", BODY)).status == 200

    within(test)


def test_headers_are_few_and_short(within: Within) -> None:
    async def test(house: House) -> None:
        many = await post(house, "/generate", BODY, *(f"x-{n}: 1" for n in range(200)))
        assert many.status == 431 and many.json["error_type"] == "validation"
        long = await post(house, "/generate", BODY, f"x-long: {'y' * 33_000}")
        assert long.status == 431
        async with connection(house) as (reader, writer):
            writer.write(head("/generate", f"x-long: {'y' * 200_000}"))
            assert b" 400 " in await reader.readline(), "by the server itself, which reads no more"
        assert (await post(house, "/generate", BODY, f"x-fine: {'y' * 8000}")).status == 200
        refused = "lorax_spec_refused_requests_total"
        assert house.router.metrics.value(refused, reason="headers_too_large") >= 2

    within(test)


def test_grpc_has_the_same_limit(within: Within) -> None:
    async def test(house: House) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await house.stub.Generate(request("x" * MOST, 4))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await house.text("x", 4)

    within(test)


def test_pages_of_the_named_origin_may_call(within: Within) -> None:
    async def test(house: House) -> None:
        async def asked(origin: str) -> Answer:
            wanted = "access-control-request-method: POST"
            names = "access-control-request-headers: authorization, content-type"
            async with connection(house) as (reader, writer):
                writer.write(
                    head("/generate", f"origin: {origin}", wanted, names, method="OPTIONS")
                )
                return await answer(reader)

        allowed = await asked(ORIGIN)
        assert allowed.status == 200
        assert allowed.headers["access-control-allow-origin"] == ORIGIN
        assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
        assert (await asked("https://other.example")).status == 400
        ours = await post(house, "/generate", BODY, f"origin: {ORIGIN}")
        assert ours.headers["access-control-allow-origin"] == ORIGIN
        assert "x-skipped-tokens" in ours.headers["access-control-expose-headers"]
        refused = await post(house, "/generate", padded(MOST + 1), f"origin: {ORIGIN}")
        assert refused.status == 413
        assert refused.headers["access-control-allow-origin"] == ORIGIN, "a page may read why"
        other = await post(house, "/generate", BODY, "origin: https://other.example")
        assert "access-control-allow-origin" not in other.headers

    within(test)


def test_every_answer_has_a_request_id(within: Within) -> None:
    async def test(house: House) -> None:
        mine = await post(house, "/generate", BODY, "x-request-id: mine")
        assert mine.headers["x-request-id"] == "mine"
        for path, body in (
            ("/generate", BODY),
            ("/nowhere", BODY),
            ("/generate", padded(MOST * 2)),
        ):
            assert len((await post(house, path, body)).headers["x-request-id"]) == 32

    within(test)


def test_an_app_that_swallows_the_end_is_overruled() -> None:
    """Whatever an app makes of a body that breaks off, the caller reads why."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
        except Exception:
            await send({"type": "http.response.start", "status": 400, "headers": []})
            await send({"type": "http.response.body", "body": b"odd"})

    sent: list[Any] = []
    coming = [
        {"type": "http.request", "body": b"x", "more_body": False},
        {"type": "http.request", "body": b"x" * 11, "more_body": True},
    ]

    async def receive() -> Any:
        return coming.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": [], "path": "/"}
    asyncio.run(Limits(app, 10, lambda status: None)(scope, receive, send))
    assert [message.get("status") for message in sent] == [413, None]
