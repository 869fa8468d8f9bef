"""One table: what each error is over HTTP, in LoRAX's words and in OpenAI's."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from lorax_spec.errors import (
    AdapterMismatch,
    AdapterNotFound,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    LoraxSpecError,
    Overloaded,
    PermissionDenied,
    RequestCancelled,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

OPENAI_PREFIX = "/v1/"


@dataclass(frozen=True)
class _Way:
    """``lorax`` is its ``error_type``; ``kind`` and ``code`` are OpenAI's ``type`` and ``code``,
    and ``openai_status`` its status where that is another."""

    status: int
    lorax: str
    kind: str
    code: str
    openai_status: int = 0


_WAYS: dict[type[LoraxSpecError], _Way] = {
    InvalidArgument: _Way(422, "validation", "invalid_request_error", "invalid_value", 400),
    Unauthenticated: _Way(401, "unauthenticated", "invalid_request_error", "invalid_api_key"),
    PermissionDenied: _Way(403, "permission_denied", "invalid_request_error", "permission_denied"),
    AdapterNotFound: _Way(404, "adapter_not_found", "invalid_request_error", "model_not_found"),
    AdapterMismatch: _Way(424, "generation", "invalid_request_error", "adapter_mismatch"),
    Overloaded: _Way(429, "overloaded", "rate_limit_error", "rate_limit_exceeded"),
    RequestCancelled: _Way(499, "cancelled", "server_error", "cancelled"),
    InternalError: _Way(500, "incomplete_generation", "server_error", "internal_error"),
    Unimplemented: _Way(422, "not_supported", "invalid_request_error", "not_supported", 400),
    Unavailable: _Way(503, "unavailable", "server_error", "unavailable"),
    DeadlineExceeded: _Way(504, "timeout", "server_error", "timeout"),
}
_UNKNOWN = _Way(500, "internal", "server_error", "internal_error")

#: Our names of fields, where OpenAI has others.
_OPENAI_NAMES = {
    "max_new_tokens": "max_tokens",
    "return_k_alternatives": "top_logprobs",
    "adapter_id": "model",
    "reference": "prediction",
}


class ErrorAnswer(BaseModel):
    """LoRAX's shape of an error; ``error_type`` tells its kind."""

    error: str
    error_type: str


class OpenAIErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorAnswer(BaseModel):
    """OpenAI's shape of an error; ``param`` names the field that is wrong."""

    error: OpenAIErrorBody


def documented(*statuses: int, openai: bool = False) -> dict[int | str, dict[str, Any]]:
    """What a route may answer instead of what it should, for the OpenAPI document."""
    model = OpenAIErrorAnswer if openai else ErrorAnswer
    names: tuple[int | str, ...] = (*statuses, "default")
    return {name: {"model": model} for name in names}


def lorax_error(error: LoraxSpecError) -> str:
    """The error as JSON, in LoRAX's shape."""
    return json.dumps({"error": error.message, "error_type": _way(error).lorax})


def openai_error(error: LoraxSpecError, path: str) -> str:
    """The error as JSON, in OpenAI's shape, with the names that ``path`` has for fields."""
    way, message, param = _way(error), error.message, None
    if isinstance(error, InvalidArgument) and error.field:
        ours = error.field.removeprefix("parameters.")
        names = {**_OPENAI_NAMES, "inputs": "messages" if "chat" in path else "prompt"}
        param = names.get(ours.rpartition(".")[2], ours)
        message = message.replace(f"`{ours.rpartition('.')[2]}`", f"`{param}`")
    if isinstance(error, AdapterNotFound):
        param = "model"
    body = {"message": message, "type": way.kind, "param": param, "code": way.code}
    return json.dumps({"error": body})


def answer(error: LoraxSpecError, path: str) -> Response:
    way, headers = _way(error), {}
    if isinstance(error, Overloaded):
        headers["retry-after"] = str(math.ceil(error.retry_after))
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if path.startswith(OPENAI_PREFIX):
        status, content = way.openai_status or way.status, openai_error(error, path)
    else:
        status, content = way.status, lorax_error(error)
    return Response(content, status, headers, "application/json")


def install(app: FastAPI) -> None:
    """Every error of ``app`` gets its path's shape, the framework's own too."""

    @app.exception_handler(LoraxSpecError)
    async def ours(request: Request, error: LoraxSpecError) -> Response:
        return answer(error, request.scope["path"])

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(_invalid(request, error), request.scope["path"])

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> Response:
        text, kind = str(error.detail), "not_found" if error.status_code == 404 else "bad_request"
        if request.scope["path"].startswith(OPENAI_PREFIX):
            body = {"message": text, "type": "invalid_request_error", "param": None, "code": kind}
            content = json.dumps({"error": body})
        else:
            content = json.dumps({"error": text, "error_type": kind})
        return Response(content, error.status_code, error.headers, "application/json")

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        """The server writes it to the log."""
        failed = LoraxSpecError("the router failed; its log says why")
        return answer(failed, request.scope["path"])


def _way(error: LoraxSpecError) -> _Way:
    return _WAYS.get(type(error), _UNKNOWN)


def _invalid(request: Request, error: RequestValidationError) -> InvalidArgument:
    """The first fault names its field."""
    fault = error.errors()[0]
    path = ".".join(str(part) for part in fault["loc"][1:])
    kind, text = fault["type"], fault["msg"]
    if fault["loc"] == ("body",) and "json" not in request.headers.get("content-type", ""):
        return InvalidArgument("the body must be JSON, with Content-Type: application/json")
    if kind == "json_invalid":
        return InvalidArgument(f"the body is not JSON: {fault.get('ctx', {}).get('error', text)}")
    if kind == "extra_forbidden":
        return InvalidArgument(f"`{path}` is not a field that this server knows", path)
    if kind == "missing":
        return InvalidArgument(f"`{path}` is missing" if path else "the body is missing", path)
    return InvalidArgument(f"`{path}`: {text}" if path else text, path)
