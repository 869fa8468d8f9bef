"""Who may call over HTTP, where the server has API keys.

``KeysFirst`` lets nobody without a known key further than to the few open paths, before a byte of
a body is read; ``require_admin`` then asks for more where a route changes something.  Open are
``/health``, ``/ping`` and ``/startup``, which probes ask, and pages that say nothing of the
server's work; ``/metrics`` is not, since it names the adapters of all callers.

The key is ``Authorization: Bearer``; a request's ``api_token``, with which the server fetches a
private adapter, is another thing and never taken for it.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from lorax_spec.errors import LoraxSpecError
from lorax_spec.router.keys import Key, KeyRing, Role
from lorax_spec.router.web import errors
from lorax_spec.router.web.playground import OPEN_PATHS

_OPEN = OPEN_PATHS.union(("/", "/docs", "/health", "/openapi.json", "/ping", "/startup"))


class KeysFirst:
    """Answers calls without a known key itself."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not (scope["method"] == "GET" and scope["path"] in _OPEN):
            try:
                self._keys.admit(Headers(scope=scope).get("authorization"), Role.USER)
            except LoraxSpecError as error:
                await errors.answer(error, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)


def require_user(connection: HTTPConnection) -> Key | None:
    """The caller's key; None where no keys are asked for.  Raises Unauthenticated."""
    return _admit(connection, Role.USER)


def require_admin(connection: HTTPConnection) -> Key | None:
    """As ``require_user``, and raises PermissionDenied for a user's key."""
    return _admit(connection, Role.ADMIN)


def _admit(connection: HTTPConnection, role: Role) -> Key | None:
    keys: KeyRing | None = connection.app.state.keys
    return None if keys is None else keys.admit(connection.headers.get("authorization"), role)
