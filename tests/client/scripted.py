"""A real server on a real socket that answers as a test scripts it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import grpc

from lorax_spec import types, wire
from lorax_spec.errors import LoraxSpecError
from lorax_spec.v1 import lorax_spec_pb2 as pb
from lorax_spec.v1 import lorax_spec_pb2_grpc as rpc


def token(word: str) -> types.Token:
    return types.Token(id=len(word), text=word, logprob=-0.5)


def details(words: list[str]) -> types.Details:
    return types.Details(
        finish_reason=types.FinishReason.LENGTH,
        prompt_tokens=3,
        generated_tokens=len(words),
        skipped_tokens=0,
        seed=None,
        prefill=(),
        tokens=tuple(token(word) for word in words),
        speculation=types.SpeculationDetails(forward_passes=len(words)),
        timings=types.Timings(),
    )


class ScriptedServer(rpc.LoraxSpecServicer):
    """Answers ``words``; each call first spends one of ``failures``, ``break_after`` words in."""

    def __init__(self) -> None:
        self.words = ["one ", "two ", "three"]
        self.failures: list[LoraxSpecError] = []
        self.break_after = 0
        self.pause = 0.0
        self.without_details = False
        self.calls = 0
        self.requests: list[types.GenerateRequest] = []
        self.metadata: dict[str, str] = {}
        self.cancelled = threading.Event()

    async def _begin(self, context: Any) -> LoraxSpecError | None:
        self.calls += 1
        self.metadata = dict(context.invocation_metadata())
        return self.failures.pop(0) if self.failures else None

    async def _fail(self, context: Any, error: LoraxSpecError) -> None:
        status = wire.status_of(error)
        await context.abort(status.code, status.details, status.trailing_metadata)

    async def Generate(self, request: Any, context: Any) -> pb.GenerateResponse:  # noqa: N802
        self.requests.append(wire.request_from_pb(request))
        if error := await self._begin(context):
            await self._fail(context, error)
        await asyncio.sleep(self.pause)
        return wire.response_to_pb(types.Response("".join(self.words), details(self.words)))

    async def GenerateStream(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(wire.request_from_pb(request))
        error = await self._begin(context)
        try:
            for place, word in enumerate(self.words):
                if error and place == self.break_after:
                    await self._fail(context, error)
                yield wire.stream_to_pb(types.StreamResponse(token=token(word)))
                await asyncio.sleep(self.pause)
            if not self.without_details:
                whole = types.StreamResponse(None, "".join(self.words), details(self.words))
                yield wire.stream_to_pb(whole)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def Info(self, request: Any, context: Any) -> pb.InfoResponse:  # noqa: N802
        if error := await self._begin(context):
            await self._fail(context, error)
        return pb.InfoResponse(model_id="scripted", block_size=16)

    async def Tokenize(self, request: Any, context: Any) -> pb.TokenizeResponse:  # noqa: N802
        await self._begin(context)
        start = 0 if request.add_special_tokens else 1
        return wire.input_tokens_to_pb([types.InputToken(1, request.inputs, start, 5)])

    async def ListAdapters(self, request: Any, context: Any) -> pb.ListAdaptersResponse:  # noqa: N802
        await self._begin(context)
        return pb.ListAdaptersResponse(adapters=[pb.Adapter(adapter_id="a", kind="lora")])

    async def LoadAdapter(self, request: Any, context: Any) -> pb.LoadAdapterResponse:  # noqa: N802
        await self._begin(context)
        adapter = pb.Adapter(adapter_id=request.adapter_id, source=request.adapter_source)
        return pb.LoadAdapterResponse(adapter=adapter)

    async def UnloadAdapter(self, request: Any, context: Any) -> pb.UnloadAdapterResponse:  # noqa: N802
        await self._begin(context)
        return pb.UnloadAdapterResponse(adapter=pb.Adapter(adapter_id=request.adapter_id))

    async def PinAdapter(self, request: Any, context: Any) -> pb.PinAdapterResponse:  # noqa: N802
        await self._begin(context)
        adapter = pb.Adapter(adapter_id=request.adapter_id, pinned=request.pinned)
        return pb.PinAdapterResponse(adapter=adapter)


class Running:
    """A server in a thread of its own; ``target`` is where it listens."""

    def __init__(
        self,
        servicer: ScriptedServer,
        address: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._servicer = servicer
        self._credentials = credentials
        self._address = address
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = grpc.aio.server()
        rpc.add_LoraxSpecServicer_to_server(self._servicer, server)
        port = (
            server.add_insecure_port(self._address)
            if self._credentials is None
            else server.add_secure_port(self._address, self._credentials)
        )
        self.target = f"{self._address.rpartition(':')[0]}:{port}"
        await server.start()
        self._ready.set()
        await self._stop.wait()
        await server.stop(None)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
