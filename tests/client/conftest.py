"""A scripted server, and both clients to call it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lorax_spec import AsyncClient, Client
from lorax_spec.client import Retry
from tests.client.scripted import Running, ScriptedServer

QUICK = Retry(attempts=4, first=0.01, longest=0.05)


@pytest.fixture
def script() -> ScriptedServer:
    return ScriptedServer()


@pytest.fixture
def target(script: ScriptedServer) -> Iterator[str]:
    running = Running(script)
    yield running.target
    running.stop()


#: One call of either client: ``call("generate", "a prompt", seed=1)``; a stream comes as a list.
Caller = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, target: str) -> Caller:
    def blocking(method: str, *args: Any, options: dict[str, Any] | None = None, **kw: Any) -> Any:
        with Client(target, **{"retry": QUICK, "timeout": 10.0, **(options or {})}) as client:
            answer = getattr(client, method)(*args, **kw)
            return list(answer) if method.endswith("_stream") else answer

    def awaited(method: str, *args: Any, options: dict[str, Any] | None = None, **kw: Any) -> Any:
        async def run() -> Any:
            chosen = {"retry": QUICK, "timeout": 10.0, **(options or {})}
            async with AsyncClient(target, **chosen) as client:
                answer = getattr(client, method)(*args, **kw)
                if method.endswith("_stream"):
                    return [event async for event in answer]
                return await answer

        return asyncio.run(run())

    return blocking if request.param == "sync" else awaited
