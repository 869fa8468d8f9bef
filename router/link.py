"""The router's end of one worker's stream."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import grpc.aio

from lorax_spec.engine.request import Event, Failed, Finished, TokenRequest
from lorax_spec.router.placement import Snapshot
from lorax_spec.types import AdapterChat, AdapterMove, AdapterRef, Info
from lorax_spec.v1 import lorax_spec_pb2 as pb
from lorax_spec.v1 import worker_pb2 as worker_pb
from lorax_spec.v1 import worker_pb2_grpc
from lorax_spec.wire import (
    WorkerLoad,
    adapter_chat_from_pb,
    adapter_ref_to_pb,
    error_of,
    info_from_pb,
    is_answer,
    report_from_pb,
    submit_to_pb,
)

logger = logging.getLogger(__name__)

_FIRST_BACKOFF = 0.05
_LAST_BACKOFF = 2.0
_DESCRIBE_TIMEOUT = 10.0

_OPTIONS = [
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.enable_http_proxy", 0),
]

#: One request's events; None: the worker is lost.
Inbox = asyncio.Queue[Event | None]


class WorkerLostError(Exception):
    """The worker's stream broke before the request ended."""


class WorkerLink:
    """Keeps one stream to a worker open, and shares it among requests.

    ``info`` and ``stub`` are set while ``connected``.
    """

    def __init__(
        self,
        address: str,
        on_describe: Callable[[Info], None],
        on_change: Callable[[], None],
        on_moves: Callable[[Sequence[AdapterMove]], None],
    ) -> None:
        """``on_describe`` sees what the worker serves and may raise to refuse it; ``on_change`` is
        called whenever ``connected`` changes; ``on_moves`` hears what adapters did there."""
        self.address = address
        self.info: Info | None = None
        self.stub: worker_pb2_grpc.WorkerStub | None = None
        self._on_describe = on_describe
        self._on_change = on_change
        self._on_moves = on_moves
        self._load = WorkerLoad()
        self._ids = itertools.count(1)
        self._inboxes: dict[int, Inbox] = {}
        self._outbox: asyncio.Queue[worker_pb.RouterMessage] = asyncio.Queue()

    @property
    def connected(self) -> bool:
        return self.stub is not None

    @property
    def snapshot(self) -> Snapshot:
        requests = max(len(self._inboxes), self._load.running + self._load.waiting)
        return Snapshot(requests, frozenset(self._load.device_adapters))

    @property
    def load(self) -> WorkerLoad:
        """As the worker said last; nothing while it is not connected."""
        return self._load

    async def keep_connected(self) -> None:
        """Connect, and again whenever the stream breaks, until cancelled."""
        backoff = _FIRST_BACKOFF
        while True:
            try:
                await self._connect()
            except grpc.aio.AioRpcError as error:
                logger.debug("worker %s: %s", self.address, error.details())
            except Exception:  # a link outlives whatever its worker sends
                logger.exception("worker %s", self.address)
            if self.connected:
                logger.warning("lost worker %s", self.address)
                backoff = _FIRST_BACKOFF
                self._disconnect()
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _LAST_BACKOFF)

    async def run(self, request: TokenRequest) -> AsyncGenerator[list[Event]]:
        """Send a request and yield what has come of its events, Finished or Failed last.

        Raises WorkerLostError where the worker goes away first.  Leaving early cancels the request.
        """
        if not self.connected:
            raise WorkerLostError(self.address)
        request_id = next(self._ids)
        inbox: Inbox = asyncio.Queue()
        submit = submit_to_pb(replace(request, request_id=request_id))
        self._inboxes[request_id] = inbox
        self._outbox.put_nowait(worker_pb.RouterMessage(submit=submit))
        try:
            while True:
                come = [await inbox.get()]
                while not inbox.empty():
                    come.append(inbox.get_nowait())
                events = [event for event in come if event is not None]
                if events:
                    yield events
                    if isinstance(events[-1], Finished | Failed):
                        return
                if come[-1] is None:
                    raise WorkerLostError(self.address)
        finally:
            if self._inboxes.pop(request_id, None) is not None:
                cancel = worker_pb.Cancel(request_id=request_id)
                self._outbox.put_nowait(worker_pb.RouterMessage(cancel=cancel))

    async def chat(self, ref: AdapterRef) -> AdapterChat:
        """How the adapter writes conversations, once the worker has read it.

        Raises WorkerLostError where the worker goes away first, and the LoraxSpecError it answers.
        """
        if self.stub is None:
            raise WorkerLostError(self.address)
        request = worker_pb.DescribeAdapterRequest(adapter=adapter_ref_to_pb(ref))
        try:
            return adapter_chat_from_pb(await self.stub.DescribeAdapter(request))
        except grpc.aio.AioRpcError as error:
            if not is_answer(error):
                raise WorkerLostError(self.address) from error
            raise error_of(error) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise WorkerLostError(self.address) from None  # a channel that closes cancels its calls

    async def _connect(self) -> None:
        """Returns, or raises AioRpcError, when the stream is over."""
        async with grpc.aio.insecure_channel(self.address, options=_OPTIONS) as channel:
            stub = worker_pb2_grpc.WorkerStub(channel)  # type: ignore[no-untyped-call]
            described = await stub.Describe(pb.InfoRequest(), timeout=_DESCRIBE_TIMEOUT)
            info = info_from_pb(described)
            self._on_describe(info)
            self._outbox = asyncio.Queue()
            stream = stub.Connect()
            writer = asyncio.create_task(self._write(stream))
            try:
                async for message in stream:
                    if not self.connected:  # the first message says that the stream stands
                        self.info, self.stub = info, stub
                        logger.info("connected to worker %s", self.address)
                        self._on_change()
                    self._receive(message)
            finally:
                writer.cancel()

    async def _write(
        self,
        stream: grpc.aio.StreamStreamCall[worker_pb.RouterMessage, worker_pb.WorkerMessage],
    ) -> None:
        outbox = self._outbox
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the reader tells
            while True:
                await stream.write(await outbox.get())

    def _receive(self, message: worker_pb.WorkerMessage) -> None:
        report = report_from_pb(message)
        if report.load is not None:
            self._load = report.load
        if report.moves:
            self._on_moves(report.moves)
        for event in report.events:
            if isinstance(event, Finished | Failed):
                inbox = self._inboxes.pop(event.request_id, None)
            else:
                inbox = self._inboxes.get(event.request_id)
            if inbox is not None:
                inbox.put_nowait(event)

    def _disconnect(self) -> None:
        self.stub = None
        self._load = WorkerLoad()
        inboxes, self._inboxes = self._inboxes, {}
        for inbox in inboxes.values():
            inbox.put_nowait(None)
        self._on_change()
