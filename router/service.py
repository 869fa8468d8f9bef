"""The public LoraxSpec service: translates, and hands on."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from lorax_spec.errors import InternalError, InvalidArgument, LoraxSpecError
from lorax_spec.router.frontend import Frontend
from lorax_spec.router.pool import WorkerPool
from lorax_spec.router.sums import add_infos
from lorax_spec.types import AdapterInfo
from lorax_spec.v1 import lorax_spec_pb2 as pb
from lorax_spec.v1 import lorax_spec_pb2_grpc
from lorax_spec.wire import (
    adapter_info_from_pb,
    adapter_info_to_pb,
    info_to_pb,
    input_tokens_to_pb,
    request_from_pb,
    response_to_pb,
    status_of,
    stream_to_pb,
)

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class LoraxSpecService(lorax_spec_pb2_grpc.LoraxSpecServicer):
    def __init__(self, frontend: Frontend, pool: WorkerPool) -> None:
        self._frontend = frontend
        self._pool = pool

    async def Generate(  # noqa: N802 - gRPC's name
        self, request: pb.GenerateRequest, context: Context
    ) -> pb.GenerateResponse:
        async with _errors_as_status(context):
            return response_to_pb(await self._frontend.complete(request_from_pb(request)))

    async def GenerateStream(  # noqa: N802
        self, request: pb.GenerateRequest, context: Context
    ) -> None:
        async with (
            _errors_as_status(context),
            aclosing(self._frontend.stream(request_from_pb(request))) as events,
        ):
            async for event in events:
                await context.write(stream_to_pb(event))

    async def Tokenize(  # noqa: N802
        self, request: pb.TokenizeRequest, context: Context
    ) -> pb.TokenizeResponse:
        special = request.add_special_tokens if request.HasField("add_special_tokens") else True
        async with _errors_as_status(context):
            return input_tokens_to_pb(await self._frontend.tokenize(request.inputs, special))

    async def Info(  # noqa: N802
        self, request: pb.InfoRequest, context: Context
    ) -> pb.InfoResponse:
        async with _errors_as_status(context):
            return info_to_pb(self._frontend.info())

    async def ListAdapters(  # noqa: N802
        self, request: pb.ListAdaptersRequest, context: Context
    ) -> pb.ListAdaptersResponse:
        async with _errors_as_status(context):
            answers = await self._everywhere("ListAdapters", request, context)
            return pb.ListAdaptersResponse(adapters=_merge(answers))

    async def LoadAdapter(  # noqa: N802
        self, request: pb.LoadAdapterRequest, context: Context
    ) -> pb.LoadAdapterResponse:
        async with _errors_as_status(context):
            _require_adapter_id(request.adapter_id)
            answers = await self._everywhere("LoadAdapter", request, context)
            return pb.LoadAdapterResponse(adapter=answers[0].adapter)

    async def UnloadAdapter(  # noqa: N802
        self, request: pb.UnloadAdapterRequest, context: Context
    ) -> pb.UnloadAdapterResponse:
        async with _errors_as_status(context):
            _require_adapter_id(request.adapter_id)
            answers = await self._everywhere("UnloadAdapter", request, context)
            return pb.UnloadAdapterResponse(adapter=answers[0].adapter)

    async def PinAdapter(  # noqa: N802
        self, request: pb.PinAdapterRequest, context: Context
    ) -> pb.PinAdapterResponse:
        async with _errors_as_status(context):
            _require_adapter_id(request.adapter_id)
            answers = await self._everywhere("PinAdapter", request, context)
            return pb.PinAdapterResponse(adapter=answers[0].adapter)

    async def _everywhere(self, method: str, request: Message, context: Context) -> list[Any]:
        """Every worker's answer, within the caller's deadline."""
        timeout = context.time_remaining()
        return await self._pool.everywhere(
            lambda stub: getattr(stub, method)(request, timeout=timeout)
        )


@asynccontextmanager
async def _errors_as_status(context: Context) -> AsyncIterator[None]:
    """Ends the call with the status of any error inside.

    When the caller leaves or its deadline passes, gRPC cancels the handler, which cancels the rest.
    """
    try:
        yield
        return
    except LoraxSpecError as error:
        status = status_of(error)
    except Exception:
        logger.exception("a request failed")
        status = status_of(InternalError("the router failed; its log says why"))
    await context.abort(status.code, status.details or "", status.trailing_metadata or ())


def _require_adapter_id(adapter_id: str) -> None:
    if not adapter_id:
        raise InvalidArgument("`adapter_id` cannot be empty", "adapter_id")


def _merge(answers: list[pb.ListAdaptersResponse]) -> list[pb.Adapter]:
    """One entry for each adapter; what was read with other credentials is another."""
    merged: dict[tuple[str, str, str, str], AdapterInfo] = {}
    for message in (message for answer in answers for message in answer.adapters):
        info = adapter_info_from_pb(message)
        key = info.source, info.adapter_id, info.revision, info.scope
        merged[key] = add_infos(merged[key], info) if key in merged else info
    return [adapter_info_to_pb(info) for info in merged.values()]
