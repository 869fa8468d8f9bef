"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Mapping
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


class Client(ClientBase):
    """Calls a server and waits for it.

        with Client("localhost:50051") as client:
            print(client.generate("def add(", max_new_tokens=20).generated_text)

    Methods raise the errors under ``lorax_spec.LoraxSpecError``, and ``TypeError`` for an argument
    they do not know.  One client may serve many threads.
    """

    def generate(
        self, prompt: str, adapter_id: str | None = None, **options: Unpack[GenerateOptions]
    ) -> Response:
        """Continue ``prompt``; ``GenerateOptions`` lists the arguments."""
        return self._run(calls.generate(prompt, adapter_id, self._own(options)))

    def generate_stream(
        self, prompt: str, adapter_id: str | None = None, **options: Unpack[GenerateOptions]
    ) -> Generator[StreamResponse, None, None]:
        """Yield each ``.token`` as it comes and last the ``.details``; leaving the loop cancels."""
        return self._stream(calls.generate(prompt, adapter_id, self._own(options)))

    def chat(
        self,
        messages: Iterable[Message | Mapping[str, str]],
        adapter_id: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Response:
        """Answer a conversation, rendered by the model's own chat template."""
        return self._run(calls.chat(messages, adapter_id, self._own(options)))

    def chat_stream(
        self,
        messages: Iterable[Message | Mapping[str, str]],
        adapter_id: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generator[StreamResponse, None, None]:
        """As ``chat``, answered as ``generate_stream`` answers."""
        return self._stream(calls.chat(messages, adapter_id, self._own(options)))

    def info(self) -> Info:
        """What the server serves, and its limits."""
        return self._run(calls.info())

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> tuple[InputToken, ...]:
        return self._run(calls.tokenize(text, add_special_tokens))

    def list_adapters(self) -> list[AdapterInfo]:
        return self._run(calls.list_adapters())

    def load_adapter(
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
        return self._run(
            calls.load_adapter(adapter_id, adapter_source, adapter_revision, token, wait)
        )

    def unload_adapter(self, adapter_id: str) -> AdapterInfo:
        """Drop an adapter; requests that run on it finish first."""
        return self._run(calls.unload_adapter(adapter_id))

    def pin_adapter(self, adapter_id: str, pinned: bool = True) -> AdapterInfo:
        """Keep an adapter on the device until it is unpinned."""
        return self._run(calls.pin_adapter(adapter_id, pinned))

    def close(self) -> None:
        """Break the connection; what is under way fails with ``RequestCancelled``."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @cached_property
    def _channel(self) -> grpc.Channel:
        target, credentials = self._connection.target, self._connection.credentials()
        if credentials is None:
            return grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
        return grpc.secure_channel(target, credentials, options=CHANNEL_OPTIONS)

    @cached_property
    def _stub(self) -> LoraxSpecStub:
        return LoraxSpecStub(self._channel)  # type: ignore[no-untyped-call]

    def _start(self, call: calls.Call[Any], timeout: float | None, trace: Metadata) -> Any:
        method = getattr(self._stub, call.method)
        metadata = (*self._connection.metadata(), *trace)
        return method(call.request, timeout=timeout, metadata=metadata)

    def _run(self, call: calls.Call[Answer]) -> Answer:
        attempts = self._connection.attempts(call)
        with traced(call.method) as trace:
            while True:
                try:
                    return call.read(self._start(call, attempts.time_left(), trace))
                except grpc.RpcError as failure:
                    time.sleep(attempts.pause_after(failure))

    def _stream(self, whole: calls.Call[Response]) -> Generator[StreamResponse, None, None]:
        with traced(whole.method) as trace:
            yield from self._events(calls.streamed(whole), trace)

    def _events(
        self, call: calls.Call[StreamResponse], trace: Metadata
    ) -> Generator[StreamResponse, None, None]:
        attempts, answered, complete = self._connection.attempts(call), False, False
        while not complete:
            stream = self._start(call, attempts.time_left(), trace)
            try:
                for message in stream:
                    event, answered = call.read(message), True
                    complete = event.details is not None
                    yield event
                if not complete:
                    raise unfinished()
            except grpc.RpcError as failure:
                time.sleep(attempts.pause_after(failure, answered=answered))
            finally:
                stream.cancel()
