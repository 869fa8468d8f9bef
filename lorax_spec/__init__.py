"""Serve many fine-tunes of one language model from one GPU, fast, by speculation.

Names are imported when they are first used: ``Client`` needs no torch, ``Engine`` does.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorax_spec.client import AsyncClient as AsyncClient
    from lorax_spec.client import Client as Client
    from lorax_spec.client import Retry as Retry
    from lorax_spec.engine.engine import Engine as Engine

    __version__: str

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
from lorax_spec.types import (
    BASE_MODEL,
    AdapterInfo,
    AdapterRef,
    AlternativeToken,
    Details,
    DrafterCounts,
    FinishReason,
    GenerateRequest,
    Info,
    InputToken,
    LoadTimes,
    MergedAdapters,
    Message,
    Method,
    Parameters,
    PrefillToken,
    Response,
    ResponseFormat,
    Speculation,
    SpeculationDetails,
    StreamResponse,
    Timings,
    Token,
)

_LAZY = {
    "AsyncClient": "lorax_spec.client",
    "Client": "lorax_spec.client",
    "Engine": "lorax_spec.engine.engine",
    "Retry": "lorax_spec.client",
}

__all__ = [
    "BASE_MODEL",
    "AdapterInfo",
    "AdapterMismatch",
    "AdapterNotFound",
    "AdapterRef",
    "AlternativeToken",
    "AsyncClient",
    "Client",
    "DeadlineExceeded",
    "Details",
    "DrafterCounts",
    "Engine",
    "FinishReason",
    "GenerateRequest",
    "Info",
    "InputToken",
    "InternalError",
    "InvalidArgument",
    "LoadTimes",
    "LoraxSpecError",
    "MergedAdapters",
    "Message",
    "Method",
    "Overloaded",
    "Parameters",
    "PermissionDenied",
    "PrefillToken",
    "RequestCancelled",
    "Response",
    "ResponseFormat",
    "Retry",
    "Speculation",
    "SpeculationDetails",
    "StreamResponse",
    "Timings",
    "Token",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name == "__version__":
        try:
            return version("lorax-spec")
        except PackageNotFoundError:
            return "0+unknown"  # a source tree that was never installed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
