"""``/docs``: the OpenAPI document as a page that needs nothing from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}
@media(prefers-color-scheme:dark){body{background:#16181d;color:#e6e6e6}a{color:#8ab4f8}}
h2{font:600 1.05rem ui-monospace,monospace;margin:2rem 0 .2rem}
table{border-collapse:collapse;width:100%}td{padding:.15rem .8rem .15rem 0;vertical-align:top}
td:first-child,td:nth-child(2){font:0.85rem ui-monospace,monospace;white-space:nowrap}
"""


def manual_router(app: FastAPI) -> APIRouter:
    routes = APIRouter()

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse("\n".join(_page(app.openapi())))

    return routes


def _page(document: Mapping[str, Any]) -> Iterator[str]:
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<style>{_STYLE}</style><h1>{title}</h1>"
    yield f"<p>{escape(document['info'].get('description', ''))}</p>"
    yield '<p>For programs: <a href="/openapi.json">openapi.json</a></p>'
    schemas = document.get("components", {}).get("schemas", {})
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"<h2>{method.upper()} {escape(path)}</h2>"
            yield f"<p>{escape(operation.get('summary', ''))}"
            yield f" {escape(operation.get('description', ''))}</p>"
            content = operation.get("requestBody", {}).get("content", {})
            reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
            yield from _fields(schemas, reference.rpartition("/")[2], "")


def _fields(schemas: Mapping[str, Any], name: str, prefix: str) -> Iterator[str]:
    """A table of a body's fields, those of its parts below."""
    properties = schemas.get(name, {}).get("properties", {})
    if not properties:
        return
    inner = []
    yield "<table>"
    for field, schema in properties.items():
        options = schema.get("anyOf", [schema])
        names = [one["$ref"].rpartition("/")[2] for one in options if "$ref" in one]
        inner += [(one, f"{prefix}{field}.") for one in names]
        text = escape(schema.get("description", ""))
        kind = escape(" | ".join(filter(None, map(_kind, options))))
        yield f"<tr><td>{escape(prefix + field)}<td>{kind}<td>{text}"
    yield "</table>"
    if prefix.count(".") < 2:
        for one, deeper in inner:
            yield from _fields(schemas, one, deeper)


def _kind(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    kind = schema.get("type", "object" if "$ref" in schema else "")
    return "" if kind == "null" else str(kind)
