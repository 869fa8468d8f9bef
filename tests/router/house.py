"""A router on this event loop, real workers behind it, and a caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio

from lorax_spec.router.server import Router, RouterConfig
from lorax_spec.types import GenerateRequest, Parameters, StreamResponse
from lorax_spec.v1 import lorax_spec_pb2_grpc
from lorax_spec.wire import error_of, request_to_pb, stream_from_pb


@dataclass
class House:
    router: Router
    channel: grpc.aio.Channel
    stub: lorax_spec_pb2_grpc.LoraxSpecStub
    #: Of gRPC.
    address: str

    def stream(self, text: str, count: int, timeout: float | None = None, **fields: Any) -> Any:
        """The call; iterate over it, or cancel it."""
        return self.stub.GenerateStream(request(text, count, **fields), timeout=timeout)

    async def text(self, text: str, count: int, **fields: Any) -> str:
        try:
            answer = await self.stub.Generate(request(text, count, **fields), timeout=30)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
        generated: str = answer.generated_text
        return generated


def request(text: str, count: int, adapter_id: str | None = None, **parameters: Any) -> Any:
    return request_to_pb(
        GenerateRequest(text, adapter_id, parameters=Parameters(max_new_tokens=count, **parameters))
    )


async def events(call: Any) -> list[StreamResponse]:
    return [stream_from_pb(message) async for message in call]


@asynccontextmanager
async def house(
    *workers: str, max_concurrent_requests: int = 100, **options: Any
) -> AsyncIterator[House]:
    router = Router(RouterConfig(workers, max_concurrent_requests, grpc_port=0, **options))
    address = await router.start()
    try:
        ready = asyncio.Event()
        health = asyncio.create_task(router.keep_health(ready.set))
        async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(60):
            await ready.wait()
            stub = lorax_spec_pb2_grpc.LoraxSpecStub(channel)  # type: ignore[no-untyped-call]
            yield House(router, channel, stub, address)
        health.cancel()
    finally:
        await router.stop()
