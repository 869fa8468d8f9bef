"""A message that cannot be read is its sender's mistake, and the status says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from lorax_spec.errors import InvalidArgument
from lorax_spec.router.grpc_auth import Continuation, Handler
from lorax_spec.wire import status_of


class Readable(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Ends a call whose message is no protobuf with INVALID_ARGUMENT; gRPC itself says UNKNOWN.

    Belongs behind interceptors that refuse callers, who then hear nothing of what they sent.
    """

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming or handler.request_deserializer is None:
            return handler
        inner = handler.unary_stream if handler.response_streaming else handler.unary_unary

        async def call(request: Any, context: Any) -> Any:
            if isinstance(request, InvalidArgument):
                status = status_of(request)
                await context.abort(status.code, status.details or "", status.trailing_metadata)
            return await inner(request, context)

        make = (
            grpc.unary_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return make(
            call,
            request_deserializer=_reading(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )


def _reading(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Gives the mistake in the message's place, since it cannot end a call from here."""

    def reading(content: bytes) -> Any:
        try:
            return read(content)
        except DecodeError as error:
            return InvalidArgument(f"the message cannot be read: {error}")

    return reading
