"""The HTTP side: every route, over the very frontend that gRPC uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Depends, FastAPI
from pydantic.json_schema import models_json_schema

from lorax_spec import __version__
from lorax_spec.router.adapters import Adapters
from lorax_spec.router.frontend import Frontend
from lorax_spec.router.keys import KeyRing
from lorax_spec.router.web import admin, errors, lorax, openai
from lorax_spec.router.web.answers import StreamAnswer
from lorax_spec.router.web.auth import require_user
from lorax_spec.router.web.manual import manual_router
from lorax_spec.router.web.openai.answers import ChatChunk
from lorax_spec.router.web.playground import playground_router

_DESCRIPTION = (
    "Text from one model and any number of its adapters, by the requests of LoRAX, TGI and OpenAI."
)


#: What events hold; nothing else names these.
_EVENTS = (StreamAnswer, ChatChunk)
_PLACE = "#/components/schemas/{model}"


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """As the framework says it; but it knows nothing of what events hold, and takes errors
        for what their routes answer."""
        document = super().openapi()
        _, events = models_json_schema(
            [(model, "serialization") for model in _EVENTS], ref_template=_PLACE
        )
        schemas = document["components"]["schemas"]
        schemas.update({**events["$defs"], **schemas})
        for operations in document["paths"].values():
            for operation in operations.values():
                for status, response in operation["responses"].items():
                    if status != "200" and "content" in response:
                        (schema,) = response["content"].values()
                        response["content"] = {"application/json": schema}
        return document


def create_app(
    frontend: Frontend,
    adapters: Adapters,
    draining: Callable[[], bool],
    keys: KeyRing | None = None,
) -> FastAPI:
    """``draining`` says whether the server is about to end; ``keys``: None asks for none."""
    app = _App(
        title="lorax-spec",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,  # their scripts come from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.keys = keys
    errors.install(app)
    app.include_router(admin.health_router(frontend, draining))
    app.include_router(manual_router(app))
    app.include_router(playground_router())
    users = [Depends(require_user)]
    app.include_router(admin.info_router(frontend), dependencies=users)
    app.include_router(lorax.generation_router(frontend), dependencies=users)
    app.include_router(openai.router(frontend, adapters), dependencies=users)
    app.include_router(admin.adapters_router(adapters))
    return app
