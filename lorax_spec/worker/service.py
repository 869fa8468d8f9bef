"""The Worker service: translates between gRPC and the driver."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
import grpc.aio

from lorax_spec.engine.request import Event, Failed, Finished, TokenRequest
from lorax_spec.errors import LoraxSpecError, Unavailable
from lorax_spec.tracing import Tracing
from lorax_spec.types import AdapterChat, AdapterInfo, AdapterMove, AdapterRef
from lorax_spec.v1 import lorax_spec_pb2 as pb
from lorax_spec.v1 import worker_pb2 as worker_pb
from lorax_spec.v1 import worker_pb2_grpc
from lorax_spec.wire import (
    WorkerLoad,
    adapter_chat_to_pb,
    adapter_info_to_pb,
    adapter_ref_from_pb,
    info_to_pb,
    report_to_pb,
    status_of,
    submit_from_pb,
)
from lorax_spec.worker.core import Core
from lorax_spec.worker.driver import Driver, Sink
from lorax_spec.worker.outbox import Outbox
from lorax_spec.worker.tracing import RequestSpans

#: Calls about adapters that may wait at the same time.
_ADAPTER_CALLS = 32
#: Moves of adapters that are kept for a router to come.
_MOST_UNTOLD = 1024

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


class WorkerService(worker_pb2_grpc.WorkerServicer):
    """One router per ``Connect`` stream; when it breaks, its requests are cancelled."""

    def __init__(self, core: Core, driver: Driver, tracing: Tracing | None = None) -> None:
        self._core = core
        self._driver = driver
        self._outboxes: set[Outbox] = set()
        self._tracing = tracing
        self._load = WorkerLoad()
        self._untold: deque[AdapterMove] = deque(maxlen=_MOST_UNTOLD)
        self._threads = ThreadPoolExecutor(_ADAPTER_CALLS, thread_name_prefix="adapters")
        self.draining = False

    def publish_load(self, load: WorkerLoad) -> None:
        self._load = load
        for outbox in self._outboxes:
            outbox.tell(load)

    def publish_moves(self, moves: Sequence[AdapterMove]) -> None:
        """To every router; the first one hears what adapters did before it came."""
        if not self._outboxes:
            self._untold.extend(moves)
        for outbox in self._outboxes:
            outbox.add_moves(moves)

    def end_streams(self) -> None:
        """Let every stream end after what is already on its way."""
        for outbox in self._outboxes:
            outbox.end()

    async def Connect(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[worker_pb.RouterMessage], context: Context
    ) -> None:
        outbox = Outbox(self._load)
        outbox.add_moves([*self._untold])
        self._untold.clear()
        self._outboxes.add(outbox)
        reader = asyncio.create_task(self._read(request_iterator, outbox))
        try:
            while (report := await outbox.take()) is not None:
                await context.write(report_to_pb(report))
        finally:
            self._outboxes.discard(outbox)
            reader.cancel()

    async def _read(self, messages: AsyncIterator[worker_pb.RouterMessage], outbox: Outbox) -> None:
        running: dict[int, int] = {}  # the router's id -> the driver's
        spans = RequestSpans(self._tracing)

        def send(events: Sequence[Event]) -> None:
            for event in events:
                spans.note(event)
                if isinstance(event, Finished | Failed):
                    running.pop(event.request_id, None)
            outbox.add(events)

        try:
            async for message in messages:
                if message.HasField("cancel"):
                    spans.cancel(message.cancel.request_id)
                    driver_id = running.pop(message.cancel.request_id, None)
                    if driver_id is not None:
                        self._driver.cancel(driver_id)
                elif message.HasField("submit"):
                    request = self._accept(message.submit, send)
                    if request is not None:
                        spans.begin(request)
                        running[request.request_id] = self._driver.submit(request, send)
        finally:
            spans.end()
            for driver_id in running.values():
                self._driver.cancel(driver_id)
            outbox.end()

    def _accept(self, message: worker_pb.Submit, send: Sink) -> TokenRequest | None:
        if self.draining:
            send([Failed(message.request_id, Unavailable("this worker is shutting down"))])
            return None
        try:
            return submit_from_pb(message)
        except LoraxSpecError as error:
            send([Failed(message.request_id, error)])
            return None

    async def Describe(  # noqa: N802
        self, request: pb.InfoRequest, context: Context
    ) -> pb.InfoResponse:
        return info_to_pb(self._core.info)

    async def ListAdapters(  # noqa: N802
        self, request: pb.ListAdaptersRequest, context: Context
    ) -> pb.ListAdaptersResponse:
        adapters = await _or_abort(context, self._in_thread(self._core.adapters.list))
        return pb.ListAdaptersResponse(adapters=[adapter_info_to_pb(one) for one in adapters])

    async def LoadAdapter(  # noqa: N802
        self, request: pb.LoadAdapterRequest, context: Context
    ) -> pb.LoadAdapterResponse:
        ref = AdapterRef(
            request.adapter_id,
            request.adapter_source,
            request.adapter_revision,
            request.api_token,
        )
        wait = request.wait if request.HasField("wait") else True
        timeout = context.time_remaining()
        loading = self._in_thread(lambda: self._core.adapters.load(ref, timeout, wait))
        info = await _or_abort(context, loading)
        return pb.LoadAdapterResponse(adapter=adapter_info_to_pb(info))

    async def UnloadAdapter(  # noqa: N802
        self, request: pb.UnloadAdapterRequest, context: Context
    ) -> pb.UnloadAdapterResponse:
        def unload() -> AdapterInfo:
            self._core.adapters.unload(request.adapter_id)
            return self._find(request.adapter_id)

        info = await _or_abort(context, self._in_thread(unload))
        return pb.UnloadAdapterResponse(adapter=adapter_info_to_pb(info))

    async def PinAdapter(  # noqa: N802
        self, request: pb.PinAdapterRequest, context: Context
    ) -> pb.PinAdapterResponse:
        pinned = request.pinned if request.HasField("pinned") else True
        timeout = context.time_remaining()
        pinning = self._in_thread(
            lambda: self._core.adapters.pin(request.adapter_id, pinned, timeout)
        )
        info = await _or_abort(context, pinning)
        return pb.PinAdapterResponse(adapter=adapter_info_to_pb(info))

    async def DescribeAdapter(  # noqa: N802
        self, request: worker_pb.DescribeAdapterRequest, context: Context
    ) -> worker_pb.DescribeAdapterResponse:
        chat = await _or_abort(context, self._chat(adapter_ref_from_pb(request.adapter)))
        return adapter_chat_to_pb(chat)

    async def _chat(self, ref: AdapterRef) -> AdapterChat:
        """Those who wait for an adapter take no thread, so no other adapter waits for them."""
        if self.draining:
            raise Unavailable("this worker is shutting down")
        asked = await self._in_thread(lambda: self._core.adapters.chat(ref))
        return await asyncio.wrap_future(asked)

    def _find(self, adapter_id: str) -> AdapterInfo:
        """What the engine knows of it, which may be nothing any more."""
        for info in self._core.adapters.list():
            if info.adapter_id == adapter_id:
                return info
        return AdapterInfo(adapter_id, "", "absent", "disk", 0, False)

    def _in_thread(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Adapters wait for disks, locks and each other, so not on the event loop."""
        return asyncio.get_running_loop().run_in_executor(self._threads, call)


async def _or_abort(context: Context, result: Awaitable[T]) -> T:
    """The result, or the end of the call with the status of its error."""
    try:
        return await result
    except LoraxSpecError as error:
        status = status_of(error)
        await context.abort(status.code, status.details or "", status.trailing_metadata or ())
        raise AssertionError("abort raises") from error
