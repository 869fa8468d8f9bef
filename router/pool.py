"""All workers: who is there, and how a request survives the loss of one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

import grpc
import grpc.aio

from lorax_spec.engine.request import Emitted, Failed, Finished, TokenRequest
from lorax_spec.errors import AdapterMismatch, LoraxSpecError, Unavailable
from lorax_spec.router.link import WorkerLink, WorkerLostError
from lorax_spec.router.placement import choose
from lorax_spec.router.sums import add_details
from lorax_spec.types import AdapterChat, AdapterMove, AdapterRef, Info, SpeculationDetails
from lorax_spec.v1.worker_pb2_grpc import WorkerStub
from lorax_spec.wire import error_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: A request that outlived so many workers may be what killed them.
_MAX_LOSSES = 3
#: Seconds after which a lost worker is known to be lost.
_PAUSE = 0.1


class WorkerPool:
    """Connections to every worker of a model.

    ``info`` is what the first worker said of itself; a worker that serves something else is left
    alone.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        patience: float,
        on_moves: Callable[[Sequence[AdapterMove]], None] = lambda moves: None,
    ) -> None:
        """``patience`` is how many seconds a request waits while no worker is there; ``on_moves``
        hears what adapters did on any worker."""
        self.info: Info | None = None
        self._patience = patience
        #: Set when next a worker comes or goes.
        self.change = asyncio.Event()
        self.links = [
            WorkerLink(address, self._admit, self._notify, on_moves) for address in addresses
        ]
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def connected(self) -> list[WorkerLink]:
        return [link for link in self.links if link.connected]

    def start(self) -> None:
        self._tasks = [asyncio.create_task(link.keep_connected()) for link in self.links]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def run(self, request: TokenRequest) -> AsyncGenerator[list[Emitted | Finished]]:
        """A request's events as they come together, Finished last; leaving early cancels it.

        When its worker is lost, the request goes on elsewhere from the tokens already sent, which
        changes none of the others (DESIGN P1).  Raises the LoraxSpecError that ended it, which is
        Unavailable where no worker came in time.
        """
        needs = [ref.adapter_id for ref in (request.adapter, request.medusa) if ref is not None]
        refusals: dict[WorkerLink, LoraxSpecError] = {}
        before = seen = SpeculationDetails()
        losses = 0
        while True:
            link = await self._choose(needs, refusals)
            try:
                async with aclosing(link.run(request)) as batches:
                    async for batch in batches:
                        failed = batch[-1] if isinstance(batch[-1], Failed) else None
                        events = [
                            replace(event, speculation=add_details(before, event.speculation))
                            for event in batch
                            if not isinstance(event, Failed)
                        ]
                        if events:
                            seen = events[-1].speculation
                            request = replace(request, generated=request.generated + _ids(events))
                            yield events
                            if isinstance(events[-1], Finished):
                                return
                        if failed is not None:
                            raise failed.error
            except Unavailable as error:
                refusals[link] = error
            except WorkerLostError:
                losses += 1
                if losses > _MAX_LOSSES:
                    raise Unavailable(f"this request lost its worker {losses} times") from None
                logger.warning("a request moves on after %d tokens", len(request.generated))
            before = seen

    async def chat(self, ref: AdapterRef) -> AdapterChat:
        """How an adapter writes conversations, from the worker that would be given its request.

        Raises what the request would end with, where its adapter cannot be had.
        """
        refusals: dict[WorkerLink, LoraxSpecError] = {}
        losses = 0
        while True:
            link = await self._choose((ref.adapter_id,), refusals)
            try:
                return await link.chat(ref)
            except Unavailable as error:
                refusals[link] = error
            except WorkerLostError:
                losses += 1
                if losses > _MAX_LOSSES:
                    raise Unavailable(f"this request lost its worker {losses} times") from None
                await asyncio.sleep(_PAUSE)

    async def everywhere(self, call: Callable[[WorkerStub], Awaitable[T]]) -> list[T]:
        """What every connected worker answers; raises the first error among them."""
        stubs = [link.stub for link in self.connected if link.stub is not None]
        if not stubs:
            raise Unavailable("no worker is connected")
        try:
            return await asyncio.gather(*map(call, stubs))
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error

    async def _choose(
        self, needs: Sequence[str], refusals: dict[WorkerLink, LoraxSpecError]
    ) -> WorkerLink:
        try:
            async with asyncio.timeout(self._patience):
                while not self.connected:
                    await self.change.wait()
        except TimeoutError:
            message = f"no worker came within {self._patience:g} s"
            raise Unavailable(message) from None
        links = _without(self.connected, refusals)
        if not links:
            raise next(reversed(refusals.values()))
        return links[choose(needs, [link.snapshot for link in links])]

    def _admit(self, info: Info) -> None:
        if self.info is None:
            self.info = info
        ours, theirs = _identity(self.info), _identity(info)
        if ours != theirs:
            raise AdapterMismatch(f"this worker serves {theirs}, the others {ours}")

    def _notify(self) -> None:
        self.change.set()
        self.change = asyncio.Event()


def _ids(events: Sequence[Emitted | Finished]) -> tuple[int, ...]:
    emitted = (event for event in events if isinstance(event, Emitted))
    return tuple(token.id for event in emitted for token in event.tokens)


def _without(links: Sequence[WorkerLink], refused: Collection[WorkerLink]) -> list[WorkerLink]:
    return [link for link in links if link not in refused]


def _identity(info: Info) -> tuple[str, str, str]:
    return info.model_id, info.model_revision, info.dtype
