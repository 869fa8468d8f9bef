"""Our errors as gRPC statuses with google.rpc details, and back."""

from __future__ import annotations

import re
from typing import cast

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from lorax_spec.errors import InvalidArgument, LoraxSpecError, Overloaded, error_from_code

_DOMAIN = "lorax-spec"

#: A status travels twice in HTTP/2 trailers, of which many peers accept 8 KiB in all.
_MAX_MESSAGE = 1000


def status_of(error: LoraxSpecError) -> grpc.Status:
    """The status to end a call with: its ``code``, ``details`` and ``trailing_metadata``.

    Every status carries an ``ErrorInfo`` whose reason is the class's name in capitals; a bad
    argument adds a ``BadRequest`` that names the field, an overload a ``RetryInfo``.
    """
    message = _shorten(error.message)
    reason = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).upper()
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain=_DOMAIN)]
    if isinstance(error, InvalidArgument):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, Overloaded):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after * 1e9))
        details.append(retry)
    packed = [Any() for _ in details]
    for target, detail in zip(packed, details, strict=True):
        target.Pack(detail)
    status: grpc.Status = rpc_status.to_status(
        status_pb2.Status(code=error.code, message=message, details=packed)
    )
    return status


def error_of(call: grpc.RpcError) -> LoraxSpecError:
    """The error that a failed call stands for, with ``field`` and ``retry_after`` restored."""
    code = call.code()
    error = error_from_code(code.value[0], call.details() or code.name)
    bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in _details(call):
        if isinstance(error, InvalidArgument) and detail.Unpack(bad):
            error.field = bad.field_violations[0].field if bad.field_violations else ""
        if isinstance(error, Overloaded) and detail.Unpack(retry):
            error.retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    return error


def is_answer(call: grpc.RpcError) -> bool:
    """Whether one of our servers failed the call, not the way there."""
    return bool(_details(call))


def _shorten(message: str) -> str:
    return message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 1] + "…"


def _details(call: grpc.RpcError) -> list[Any]:
    try:
        status = rpc_status.from_call(cast(grpc.Call, call))
    except ValueError:  # a proxy's status beside the server's details: believe the status
        return []
    return [] if status is None else list(status.details)
