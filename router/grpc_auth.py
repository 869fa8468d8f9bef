"""gRPC interceptors: whose call it is, and whether its key may make it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from lorax_spec.errors import LoraxSpecError
from lorax_spec.router.arrival import REQUEST_ID, TRACEPARENT, arrived, begin, current
from lorax_spec.router.keys import KeyRing, Role
from lorax_spec.v1 import lorax_spec_pb2 as pb
from lorax_spec.wire import status_of

#: Open to everybody: what probes and tools ask before they know a key.
_OPEN = ("/grpc.health.v1.Health/", "/grpc.reflection.")

_SERVICE = pb.DESCRIPTOR.services_by_name["LoraxSpec"].full_name
_ADMIN = frozenset(
    f"/{_SERVICE}/{method}" for method in ("LoadAdapter", "UnloadAdapter", "PinAdapter")
)

Handler = Any  # grpc.RpcMethodHandler, whose fields the stubs do not name
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]


class Arrivals(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Notes each call's request id and trace, and tells the caller the id."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        given = _metadata(handler_call_details)
        begin(arrived("grpc", given.get(REQUEST_ID), given.get(TRACEPARENT)))
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(_OPEN):
            return handler
        return _before(handler, _tell_id)


class KeysAsked(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Lets a call through where its ``authorization`` holds a key that may make it.

    Others end with UNAUTHENTICATED or PERMISSION_DENIED.  Health and reflection are open.
    """

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith(_OPEN):
            return handler
        role = Role.ADMIN if method in _ADMIN else Role.USER
        try:
            self._keys.admit(_metadata(handler_call_details).get("authorization"), role)
        except LoraxSpecError as error:
            return _before(handler, _refusing(error))
        return handler


async def _tell_id(context: Any) -> None:
    await context.send_initial_metadata(((REQUEST_ID, current().request_id),))


def _refusing(error: LoraxSpecError) -> Callable[[Any], Awaitable[None]]:
    status = status_of(error)

    async def refuse(context: Any) -> None:
        await context.abort(status.code, status.details or "", status.trailing_metadata or ())

    return refuse


def _before(handler: Handler, step: Callable[[Any], Awaitable[None]]) -> Handler:
    """The same handler, which first does ``step``; ours take one message and are coroutines."""
    inner = handler.unary_stream if handler.response_streaming else handler.unary_unary

    async def call(request: Any, context: Any) -> Any:
        await step(context)
        return await inner(request, context)

    make = (
        grpc.unary_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.unary_unary_rpc_method_handler
    )
    return make(
        call,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _metadata(details: grpc.HandlerCallDetails) -> dict[str, str]:
    """Text entries by name; the last of a name counts."""
    entries = details.invocation_metadata or ()
    return {name: value for name, value in entries if isinstance(value, str)}
