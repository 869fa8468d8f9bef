"""Server-sent events: begun when there is something to say, ended when nobody listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lorax_spec.errors import InternalError, LoraxSpecError, RequestCancelled
from lorax_spec.router.web.leaving import unless_left

logger = logging.getLogger(__name__)

MEDIA_TYPE = "text/event-stream"

#: Seconds for which an error may still become the answer's status; then, and every so many seconds
#: until the first event, a comment tells proxies that somebody is there.
_PATIENCE = 15.0
#: Seconds after which a caller who reads nothing, but holds the line, has left.
_STUCK = 120.0
#: Beside those of the answer itself; X-Accel-Buffering keeps nginx from collecting events.
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}

#: Events as bytes, as many at a time as may be sent together.
Chunks = AsyncGenerator[bytes]


def documented(*models: type[BaseModel], last: str = "") -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document: events whose data are JSON of any of ``models``, or ``last``."""
    parts = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
    data: dict[str, Any] = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": parts},
    }
    if last:
        data = {"anyOf": [{"const": last}, data]}
    schema = {"type": "object", "properties": {"data": data}}
    return {200: {"description": "Events", "content": {MEDIA_TYPE: {"schema": schema}}}}


def event(data: str) -> bytes:
    """``data`` is one line."""
    return f"data: {data}\n\n".encode()


def events(lines: Iterable[str]) -> bytes:
    return b"".join(map(event, lines))


async def begin(
    request: Request,
    chunks: Chunks,
    describe: Callable[[LoraxSpecError], str],
    headers: Mapping[str, str] | None = None,
) -> EventStream:
    """The answer, as soon as the first events are there, or are not there for long.

    ``describe`` gives the data of the event that tells of an error which ends the stream.  Raises
    the LoraxSpecError that came before the first event, and RequestCancelled as ``unless_left``.
    """
    first: asyncio.Future[bytes | None] = asyncio.ensure_future(anext(chunks, None))
    try:
        await unless_left(request.receive, asyncio.wait((first,), timeout=_PATIENCE))
        if first.done():
            first.result()
    except BaseException:
        await _end(first, chunks)
        raise
    return EventStream(first, chunks, describe, headers or {})


class EventStream(Response):
    """``first`` is the first of ``chunks``, which may still be on its way."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        first: asyncio.Future[bytes | None],
        chunks: Chunks,
        describe: Callable[[LoraxSpecError], str],
        headers: Mapping[str, str],
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({**_HEADERS, **headers})
        self._first = first
        self._chunks = chunks
        self._describe = describe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_left(receive, self._send(send))
        except RequestCancelled:
            logger.debug("a caller left its stream")
        except TimeoutError:  # the server closes the line, since the answer is not complete
            logger.warning("a caller read nothing for %g s", _STUCK)
        finally:
            await _end(self._first, self._chunks)

    async def _send(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        while not (await asyncio.wait((self._first,), timeout=_PATIENCE))[0]:
            await _write(send, b": still waiting\n\n")
        try:
            chunk = await self._first
            while chunk is not None:
                await _write(send, chunk)
                chunk = await anext(self._chunks, None)
        except LoraxSpecError as error:
            await _write(send, event(self._describe(error)))
        except TimeoutError:
            raise
        except Exception:
            logger.exception("a stream failed")
            failed = InternalError("the router failed; its log says why")
            await _write(send, event(self._describe(failed)))
        await _write(send, b"", more=False)


async def _write(send: Send, body: bytes, more: bool = True) -> None:
    """Waits while the caller does not keep up."""
    async with asyncio.timeout(_STUCK):
        await send({"type": "http.response.body", "body": body, "more_body": more})


async def _end(first: asyncio.Future[bytes | None], chunks: Chunks) -> None:
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await chunks.aclose()
