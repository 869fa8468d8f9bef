"""The public LoraxSpec service: translates, and hands on."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc.aio

from lorax_spec.errors import InternalError, LoraxSpecError
from lorax_spec.router.adapters import Adapters
from lorax_spec.router.frontend import Frontend
from lorax_spec.v1 import lorax_spec_pb2 as pb
from lorax_spec.v1 import lorax_spec_pb2_grpc
from lorax_spec.wire import (
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
    def __init__(self, frontend: Frontend, adapters: Adapters) -> None:
        self._frontend = frontend
        self._adapters = adapters

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
            aclosing(self._frontend.stream(request_from_pb(request))) as batches,
        ):
            async for events in batches:
                for event in events:
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
            adapters = await self._adapters.known(context.time_remaining())
            return pb.ListAdaptersResponse(adapters=map(adapter_info_to_pb, adapters))

    async def LoadAdapter(  # noqa: N802
        self, request: pb.LoadAdapterRequest, context: Context
    ) -> pb.LoadAdapterResponse:
        async with _errors_as_status(context):
            adapter = await self._adapters.load(request, context.time_remaining())
            return pb.LoadAdapterResponse(adapter=adapter_info_to_pb(adapter))

    async def UnloadAdapter(  # noqa: N802
        self, request: pb.UnloadAdapterRequest, context: Context
    ) -> pb.UnloadAdapterResponse:
        async with _errors_as_status(context):
            adapter = await self._adapters.unload(request, context.time_remaining())
            return pb.UnloadAdapterResponse(adapter=adapter_info_to_pb(adapter))

    async def PinAdapter(  # noqa: N802
        self, request: pb.PinAdapterRequest, context: Context
    ) -> pb.PinAdapterResponse:
        async with _errors_as_status(context):
            adapter = await self._adapters.pin(request, context.time_remaining())
            return pb.PinAdapterResponse(adapter=adapter_info_to_pb(adapter))


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
