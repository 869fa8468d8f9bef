"""What is seen of HTTP calls from outside: their ids, their traces, and the page of figures."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from fastapi import APIRouter, Depends, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorax_spec.router.arrival import REQUEST_ID, TRACEPARENT, arrived, serving
from lorax_spec.router.metrics import Metrics
from lorax_spec.router.web.auth import require_user
from lorax_spec.router.web.errors import documented


class Arrivals:
    """Notes each call's request id and trace, and tells the caller the id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = _text_headers(scope)
        arrival = arrived("http", given.get(REQUEST_ID), given.get(TRACEPARENT))
        own = (REQUEST_ID.encode(), arrival.request_id.encode())

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), own]}
            await send(message)

        with serving(arrival):
            await self._app(scope, receive, telling)


def metrics_router(metrics: Metrics) -> APIRouter:
    """``GET /metrics`` in Prometheus's text format."""
    router = APIRouter(dependencies=[Depends(require_user)])

    @router.get(
        "/metrics",
        tags=["server"],
        summary="Figures for Prometheus",
        response_class=PlainTextResponse,
        responses=documented(401),
    )
    async def figures() -> Response:
        return Response(await metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    return router


def _text_headers(scope: MutableMapping[str, Any]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
