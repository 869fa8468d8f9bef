"""The HTTP side of this version: whether the server is well, and what it serves."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

from lorax_spec.errors import LoraxSpecError
from lorax_spec.types import Info

logger = logging.getLogger(__name__)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Without the base class's look-up of our own name, which waits for a name server."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]


class HttpServer:
    """``GET /health`` (200 or 503) and ``GET /info`` (JSON), answered in threads of their own.

    ``health`` and ``info`` are called on those threads; a ``LoraxSpecError`` of ``info`` is
    answered with 503.  Port 0 takes a free one; ``port`` says which.  Raises ``OSError`` where
    the address is taken.
    """

    def __init__(
        self, host: str, port: int, health: Callable[[], bool], info: Callable[[], Info]
    ) -> None:
        self._server = _Listener((host, port), _handler(health, info))
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_port

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def serve_http(
    host: str, port: int, health: Callable[[], bool], info: Callable[[], Info]
) -> HttpServer:
    """A started ``HttpServer``."""
    server = HttpServer(host, port, health, info)
    server.start()
    return server


def _handler(health: Callable[[], bool], info: Callable[[], Info]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60  # seconds that an idle connection keeps its thread

        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/health":
                    well = health()
                    self._answer(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE)
                case "/info":
                    try:
                        self._answer(HTTPStatus.OK, asdict(info()))
                    except LoraxSpecError as error:
                        self._answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": error.message})
                case path:
                    self._answer(HTTPStatus.NOT_FOUND, {"error": f"no such path: {path}"})

        def _answer(self, status: HTTPStatus, body: object = None) -> None:
            content = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, template: str, *values: object) -> None:
            logger.debug(template, *values)

    return Handler
