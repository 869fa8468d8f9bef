"""The awaited client: ``Client``'s methods on ``grpc.aio``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc

from lorax_spec.client import calls
from lorax_spec.client.arguments import GenerateOptions
from lorax_spec.client.base import ClientBase
from lorax_spec.client.connection import CHANNEL_OPTIONS, unfinished
from lorax_spec.client.tracing import Metadata, traced
from lorax_spec.types import AdapterInfo, Info, InputToken, Message, Response, StreamResponse
from lorax_spec.v1.lorax_spec_pb2_grpc import LoraxSpecStub

Answer = TypeVar("Answer")


class AsyncClient(ClientBase):
    """As ``Client``, for one event loop: it connects at its first call and stays with that loop.

    async with AsyncClient("localhost:50051") as client:
        async for event in client.generate_stream("def add(", max_new_tokens=20):
            ...
    """

    async def generate(
        self, prompt: str, adapter_id: str | None = None, **options: Unpack[GenerateOptions]
    ) -> Response:
        """Continue ``prompt``; ``GenerateOptions`` lists the arguments."""
        return await self._run(calls.generate(prompt, adapter_id, self._own(options)))

    def generate_stream(
        self, prompt: str, adapter_id: str | None = None, **options: Unpack[GenerateOptions]
    ) -> AsyncGenerator[StreamResponse, None]:
        """Yield each ``.token`` as it comes and last the ``.details``; leaving the loop cancels."""
        return self._stream(calls.generate(prompt, adapter_id, self._own(options)))

    async def chat(
        self,
        messages: Iterable[Message | Mapping[str, str]],
        adapter_id: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Response:
        """Answer a conversation, rendered by the model's own chat template."""
        return await self._run(calls.chat(messages, adapter_id, self._own(options)))

    def chat_stream(
        self,
        messages: Iterable[Message | Mapping[str, str]],
        adapter_id: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncGenerator[StreamResponse, None]:
        """As ``chat``, answered as ``generate_stream`` answers."""
        return self._stream(calls.chat(messages, adapter_id, self._own(options)))

    async def info(self) -> Info:
        """What the server serves, and its limits."""
        return await self._run(calls.info())

    async def tokenize(
        self, text: str, *, add_special_tokens: bool = True
    ) -> tuple[InputToken, ...]:
        return await self._run(calls.tokenize(text, add_special_tokens))

    async def list_adapters(self) -> list[AdapterInfo]:
        return await self._run(calls.list_adapters())

    async def load_adapter(
        self,
        adapter_id: str,
        *,
        adapter_source: str | None = None,
        adapter_revision: str | None = None,
        api_token: str | None = None,
        wait: bool = True,
    ) -> AdapterInfo:
        """Bring an adapter to the device before anybody asks for it."""
        token = api_token or self._api_token
        return await self._run(
            calls.load_adapter(adapter_id, adapter_source, adapter_revision, token, wait)
        )

    async def unload_adapter(self, adapter_id: str) -> AdapterInfo:
        """Drop an adapter; requests that run on it finish first."""
        return await self._run(calls.unload_adapter(adapter_id))

    async def pin_adapter(self, adapter_id: str, pinned: bool = True) -> AdapterInfo:
        """Keep an adapter on the device until it is unpinned."""
        return await self._run(calls.pin_adapter(adapter_id, pinned))

    async def close(self) -> None:
        """Break the connection; what is under way fails with ``RequestCancelled``."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        target, credentials = self._connection.target, self._connection.credentials()
        if credentials is None:
            return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
        return grpc.aio.secure_channel(target, credentials, options=CHANNEL_OPTIONS)

    @cached_property
    def _stub(self) -> LoraxSpecStub:
        return LoraxSpecStub(self._channel)  # type: ignore[no-untyped-call]

    def _start(self, call: calls.Call[Any], timeout: float | None, trace: Metadata) -> Any:
        method = getattr(self._stub, call.method)
        metadata = (*self._connection.metadata(), *trace)
        return method(call.request, timeout=timeout, metadata=metadata)

    async def _run(self, call: calls.Call[Answer]) -> Answer:
        attempts = self._connection.attempts(call)
        with traced(call.method) as trace:
            while True:
                try:
                    return call.read(await self._start(call, attempts.time_left(), trace))
                except grpc.RpcError as failure:
                    await asyncio.sleep(attempts.pause_after(failure))

    async def _stream(self, whole: calls.Call[Response]) -> AsyncGenerator[StreamResponse, None]:
        with traced(whole.method) as trace:
            async with aclosing(self._events(calls.streamed(whole), trace)) as events:
                async for event in events:
                    yield event

    async def _events(
        self, call: calls.Call[StreamResponse], trace: Metadata
    ) -> AsyncGenerator[StreamResponse, None]:
        attempts, answered, complete = self._connection.attempts(call), False, False
        while not complete:
            stream = self._start(call, attempts.time_left(), trace)
            try:
                async for message in stream:
                    event, answered = call.read(message), True
                    complete = event.details is not None
                    yield event
                if not complete:
                    raise unfinished()
            except grpc.RpcError as failure:
                await asyncio.sleep(attempts.pause_after(failure, answered=answered))
            finally:
                stream.cancel()
