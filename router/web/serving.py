"""uvicorn on the router's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

#: Seconds that answers get to be read when the server stops; its requests have ended before.
_GRACE = 2
#: Seconds that a connection without a request is kept, longer than most clients do.
_IDLE = 75
_BACKLOG = 2048


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the router's."""
        yield


class HttpServer:
    """Listens from the beginning; ``start`` and ``stop`` belong to a running event loop.

    Port 0 takes a free one; ``port`` says which.  Raises OSError where the address is taken.
    ``tls`` are uvicorn's arguments, none for plain text.
    """

    def __init__(self, app: ASGIApp, host: str, port: int, tls: dict[str, Any]) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        # Its connections inherit it; asyncio sets it only on sockets that name their protocol.
        # Without it an event waits for the acknowledgement of the one before, often for 40 ms.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            http="h11",  # it bounds what it keeps of headers
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_IDLE,
            timeout_graceful_shutdown=_GRACE,
            **tls,
        )
        config.load()  # what is wrong with the files of TLS is said here
        self._server = _Uvicorn(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve([self._socket]))

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()
