"""Plain HTTP, so that nothing stands between a test and what the server says."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.worker.processes import process


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def events(self) -> list[Any]:
        """Of a stream; text that is no JSON as it is."""
        blocks = self.content.decode().split("\n\n")
        assert blocks.pop() == "", "a stream ends with an empty line"
        lines = [block.removeprefix("data: ") for block in blocks]
        return [json.loads(line) if line[0] == "{" else line for line in lines]


def ask(address: str, path: str, body: Any = None, method: str = "", **headers: str) -> Answer:
    """A body that is no string goes as JSON; underscores in names of headers are hyphens."""
    connection = http.client.HTTPConnection(address, timeout=60)
    content = body if isinstance(body, str | None) else json.dumps(body)
    fields = {"content-type": "application/json"} if content is not None else {}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, content, fields)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    finally:
        connection.close()


@contextmanager
def web_router(*workers: str, **options: Any) -> Iterator[str]:
    """A router process before (fake) workers; yields its HTTP address."""
    options = {"workers": workers, "grpc_port": 0, "http_port": 0, **options}
    with process("-m", "tests.router.run_router", json.dumps(options)) as (_, ready):
        yield ready.split()[1]
