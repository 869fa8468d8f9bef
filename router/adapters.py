"""What is asked about adapters, and answered by every worker, whatever protocol brought it."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from lorax_spec.errors import InvalidArgument
from lorax_spec.router.pool import WorkerPool
from lorax_spec.router.sums import add_infos
from lorax_spec.types import AdapterInfo
from lorax_spec.v1 import lorax_spec_pb2 as pb
from lorax_spec.wire import adapter_info_from_pb


class Adapters:
    """``timeout`` is in seconds; every method raises the first LoraxSpecError of any worker."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    async def known(self, timeout: float | None = None) -> list[AdapterInfo]:
        """One entry for each adapter; what was read with other credentials is another."""
        answers = await self._everywhere("ListAdapters", pb.ListAdaptersRequest(), timeout)
        merged: dict[tuple[str, str, str, str], AdapterInfo] = {}
        for message in (message for answer in answers for message in answer.adapters):
            info = adapter_info_from_pb(message)
            key = info.source, info.adapter_id, info.revision, info.scope
            merged[key] = add_infos(merged[key], info) if key in merged else info
        return [*merged.values()]

    async def load(
        self, request: pb.LoadAdapterRequest, timeout: float | None = None
    ) -> AdapterInfo:
        return await self._change("LoadAdapter", request, timeout)

    async def unload(
        self, request: pb.UnloadAdapterRequest, timeout: float | None = None
    ) -> AdapterInfo:
        return await self._change("UnloadAdapter", request, timeout)

    async def pin(self, request: pb.PinAdapterRequest, timeout: float | None = None) -> AdapterInfo:
        return await self._change("PinAdapter", request, timeout)

    async def _change(
        self,
        method: str,
        request: pb.LoadAdapterRequest | pb.UnloadAdapterRequest | pb.PinAdapterRequest,
        timeout: float | None,
    ) -> AdapterInfo:
        if not request.adapter_id:
            raise InvalidArgument("`adapter_id` cannot be empty", "adapter_id")
        answers = await self._everywhere(method, request, timeout)
        return adapter_info_from_pb(answers[0].adapter)

    async def _everywhere(self, method: str, request: Message, timeout: float | None) -> list[Any]:
        """Every worker's answer."""
        return await self._pool.everywhere(
            lambda stub: getattr(stub, method)(request, timeout=timeout)
        )
