"""``/playground``: a page for people that shows who guessed which token.

The page and what it loads come from this folder and are open to everybody; with them it calls the
same routes as any client, with the key that its user types in where the server asks for one.
"""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter, Response

PATH = "/playground"
#: What the page loads, by what it is.
_PARTS = {
    "style.css": "text/css",
    "app.js": "text/javascript",
    "api.js": "text/javascript",
    "adapters.js": "text/javascript",
    "pane.js": "text/javascript",
}
#: Whom everybody may ask for, keys or not.
OPEN_PATHS = frozenset((PATH, *(f"{PATH}/{name}" for name in _PARTS)))

#: Nothing from elsewhere, nothing inline; and nobody may frame it to steal a click.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def playground_router() -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    _serve(routes, PATH, "index.html", "text/html")
    for name, kind in _PARTS.items():
        _serve(routes, f"{PATH}/{name}", name, kind)
    return routes


def _serve(routes: APIRouter, path: str, name: str, kind: str) -> None:
    content = resources.files(__package__).joinpath(name).read_bytes()

    @routes.get(path)
    async def part() -> Response:
        return Response(content, headers=_HEADERS, media_type=kind)
