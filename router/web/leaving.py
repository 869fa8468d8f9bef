"""Work for a caller ends where the caller leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Receive

from lorax_spec.errors import RequestCancelled

T = TypeVar("T")


async def unless_left(receive: Receive, work: Awaitable[T]) -> T:
    """What ``work`` gives.  ``receive`` is the request's, its body read already.

    Raises RequestCancelled where the caller leaves first; the work has been cancelled then.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise RequestCancelled("the caller left")
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
