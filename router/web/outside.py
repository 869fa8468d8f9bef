"""What every HTTP call passes before the app: its id, browsers' rules, keys and limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from lorax_spec.router.keys import KeyRing
from lorax_spec.router.web.auth import KeysFirst
from lorax_spec.router.web.limits import Limits
from lorax_spec.router.web.observe import Arrivals

_METHODS = ("GET", "POST", "DELETE")
#: Beside those that browsers send unasked.
_REQUEST_HEADERS = ("authorization", "content-type", "traceparent", "x-request-id")
#: What a page from elsewhere may read of an answer.
_ANSWER_HEADERS = (
    "retry-after",
    "x-adapter-id",
    "x-generated-tokens",
    "x-request-id",
    "x-skipped-tokens",
    "x-total-time",
)


def outside(
    app: ASGIApp,
    keys: KeyRing | None,
    cors_origins: Sequence[str],
    max_request_bytes: int,
    on_refusal: Callable[[HTTPStatus], None],
) -> ASGIApp:
    """``app`` as callers reach it, who need one of ``keys``, unless that is None.

    Pages from ``cors_origins`` (``*``: all) may call it.  No credentials of the browser's own are
    taken, so ``*`` gives no page a caller's cookies.
    ``on_refusal`` hears the status of what was too large.
    """
    guarded: ASGIApp = Limits(app, max_request_bytes, on_refusal)
    if keys is not None:
        guarded = KeysFirst(guarded, keys)
    if cors_origins:
        guarded = CORSMiddleware(
            guarded,
            allow_origins=cors_origins,
            allow_methods=_METHODS,
            allow_headers=_REQUEST_HEADERS,
            expose_headers=_ANSWER_HEADERS,
        )
    return Arrivals(guarded)
