"""How large a request may be: middleware that answers before anybody reads more of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Headers of one request: how many, and their bytes in all.
MOST_HEADERS = 100
MOST_HEADER_BYTES = 32 * 1024

#: Of a body that is too large, so much more is read, and so long, for most callers send all of it
#: before they read an answer: a connection that is closed on them loses it.
_MOST_DISCARDED = 64 * 2**20
_DISCARD_SECONDS = 1.0


class TooLarge(Exception):
    """The body went on beyond the limit."""


class Limits:
    """Ends a request with 413 where its body has more than ``most_bytes``, sent in chunks or
    announced, and with 431 where its headers are too many or too long.

    ``on_refusal`` hears the status.  The connection closes, for the rest is still in it.
    """

    def __init__(
        self, app: ASGIApp, most_bytes: int, on_refusal: Callable[[HTTPStatus], None]
    ) -> None:
        self._app = app
        self._most = most_bytes
        self._on_refusal = on_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = scope["headers"]
        if (
            len(headers) > MOST_HEADERS
            or sum(len(name) + len(value) for name, value in headers) > MOST_HEADER_BYTES
        ):
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            text = f"at most {MOST_HEADERS} headers of {MOST_HEADER_BYTES} bytes in all"
            await self._refuse(scope, send, status, text)
        elif _announced(headers) > self._most:
            if _announced(headers) <= _MOST_DISCARDED and not _asks_first(headers):
                await _discard(receive)
            await self._refuse_body(scope, send)
        else:
            await self._count(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        read, exceeded, answered = 0, False, False

        async def counted() -> Message:
            nonlocal read, exceeded
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self._most:
                    exceeded = True
                    raise TooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            if exceeded and not answered:  # the app's own view of a broken body
                return
            answered = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except TooLarge:
            pass
        finally:
            if exceeded and not answered:
                await _discard(receive)
                await self._refuse_body(scope, send)

    async def _refuse_body(self, scope: Scope, send: Send) -> None:
        text = f"a request's body may have {self._most} bytes at most"
        await self._refuse(scope, send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)

    async def _refuse(self, scope: Scope, send: Send, status: HTTPStatus, text: str) -> None:
        self._on_refusal(status)
        content = json.dumps(_error(scope["path"], text)).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": status.value, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def _error(path: str, text: str) -> dict[str, object]:
    """In the shape that callers of this path read."""
    if path.startswith("/v1/"):
        return {
            "error": {
                "message": text,
                "type": "invalid_request_error",
                "param": None,
                "code": "request_too_large",
            }
        }
    return {"error": text, "error_type": "validation"}


async def _discard(receive: Receive) -> None:
    read = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            while read < _MOST_DISCARDED:
                message = await receive()
                read += len(message.get("body", b""))
                if not message.get("more_body"):
                    return


def _asks_first(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether the caller waits to hear that its body is wanted."""
    return any(name == b"expect" for name, _ in headers)


def _announced(headers: list[tuple[bytes, bytes]]) -> int:
    """The length it says it has; what is no number, the server has refused already."""
    values = [value for name, value in headers if name == b"content-length"]
    return max((int(value) for value in values if value.isdigit()), default=0)
