"""A hub on the loopback whose adapters come slowly, or never."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock
from urllib.parse import urlsplit

from huggingface_hub import constants

#: Repositories that begin with this are answered with 503 for ever.
FAILING = "failing"
_PIECE = 4096


class SlowHub:
    """Serves the adapter in ``folder`` under every name, as ``bytes_per_second`` allow.

    ``hurry``: while it is set, files come at once; a download that nobody waits for any more should
    not go on beside the next thing that is measured.
    """

    def __init__(self, folder: Path, bytes_per_second: float) -> None:
        self.files: Mapping[str, bytes] = {
            path.name: path.read_bytes() for path in sorted(folder.iterdir())
        }
        self.bytes_per_second = bytes_per_second
        self.hurry = threading.Event()
        self.commit = hashlib.sha1(b"".join(self.files.values())).hexdigest()

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Answer; gives the endpoint."""
        hub = self

        class Handler(_Handler):
            standin = hub

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            serve = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            serve.start()
            try:
                with mock.patch.object(constants, "HF_HUB_OFFLINE", False):
                    yield f"http://127.0.0.1:{server.server_address[1]}"
            finally:
                self.hurry.set()
                server.shutdown()

    def told(self, repository: str) -> bytes:
        """What the hub's API says of it."""
        siblings = [
            {
                "rfilename": name,
                "size": len(content),
                "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
            }
            for name, content in self.files.items()
        ]
        info = {"id": repository, "sha": self.commit, "siblings": siblings, "tags": []}
        return json.dumps(info | {"private": False, "gated": False}).encode()


@contextmanager
def the_hub_is(endpoint: str) -> Iterator[None]:
    """Whoever opens a source of adapters in between will ask there.

    No longer than that: the hub's own client makes addresses by what it read at its import.
    """
    with mock.patch.object(constants, "ENDPOINT", endpoint):
        yield


class _Handler(BaseHTTPRequestHandler):
    standin: SlowHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if f"/{FAILING}" in path:
            self._send(503, b"{}")
        elif named := re.fullmatch(r"/api/models/(.+?)(?:/revision/.+)?", path):
            self._send(200, self.standin.told(named[1]))
        elif named := re.fullmatch(r"/.+/resolve/[0-9a-f]{40}/([^/]+)", path):
            self._send(200, self.standin.files[named[1]], slowly=True)
        else:
            self._send(404, b"{}")

    def _send(self, status: int, body: bytes, slowly: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for begin in range(0, len(body), _PIECE):
            piece = body[begin : begin + _PIECE]
            if slowly:
                self.standin.hurry.wait(len(piece) / self.standin.bytes_per_second)
            try:
                self.wfile.write(piece)
            except OSError:
                return
