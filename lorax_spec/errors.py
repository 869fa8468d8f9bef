"""One tree of errors, one class per status a caller can see."""

from __future__ import annotations

from typing import ClassVar


class LoraxSpecError(Exception):
    """Base of every error this package raises on purpose.

    ``code`` is the number of the ``google.rpc.Code`` that carries the error over the wire.
    """

    code: ClassVar[int] = 2  # UNKNOWN

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RequestCancelled(LoraxSpecError):
    """The caller went away or asked to stop."""

    code = 1


class InvalidArgument(LoraxSpecError):
    """A field of the request is wrong; ``field`` names it."""

    code = 3

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class DeadlineExceeded(LoraxSpecError):
    """The request's time ran out."""

    code = 4


class AdapterNotFound(LoraxSpecError):
    """No adapter of this id where the server looks."""

    code = 5


class PermissionDenied(LoraxSpecError):
    """The caller may not use this adapter, or may not do this at all."""

    code = 7


class Overloaded(LoraxSpecError):
    """The queue is full; come back after ``retry_after`` seconds."""

    code = 8

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AdapterMismatch(LoraxSpecError):
    """The adapter cannot be served on this model; the message says what differs."""

    code = 9


class Unimplemented(LoraxSpecError):
    """The server knows the request but does not serve it."""

    code = 12


class InternalError(LoraxSpecError):
    """A fault of the server, not of the request."""

    code = 13


class Unavailable(LoraxSpecError):
    """The server or its worker is not there just now; trying again may help."""

    code = 14


class Unauthenticated(LoraxSpecError):
    """The server asks for an API key, and there was none that it knows."""

    code = 16


ERRORS_BY_CODE: dict[int, type[LoraxSpecError]] = {
    error.code: error
    for error in (
        RequestCancelled,
        InvalidArgument,
        DeadlineExceeded,
        AdapterNotFound,
        PermissionDenied,
        Overloaded,
        AdapterMismatch,
        Unimplemented,
        InternalError,
        Unavailable,
        Unauthenticated,
    )
}


def error_from_code(code: int, message: str) -> LoraxSpecError:
    """The error that ``code`` stands for; ``LoraxSpecError`` itself for any other code."""
    return ERRORS_BY_CODE.get(code, LoraxSpecError)(message)
