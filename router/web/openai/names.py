"""``model`` names the adapter."""

from __future__ import annotations

import time

from fastapi import APIRouter

from lorax_spec.errors import AdapterNotFound
from lorax_spec.router.adapters import Adapters
from lorax_spec.router.frontend import Frontend
from lorax_spec.router.web.errors import documented
from lorax_spec.router.web.openai.answers import ModelAnswer, ModelsAnswer
from lorax_spec.types import BASE_MODEL, Info

_OWNER = "lorax-spec"
#: What huggingface_hub and TGI's client send where their caller named no model.
_NAMELESS = ("", "tgi", "dummy")


def base_name(info: Info) -> str:
    """The model's own name: its id, or of a folder the last part, not where it lies here."""
    return info.model_id.rstrip("/").rpartition("/")[2] if _is_path(info) else info.model_id


def adapter_id(model: str, info: Info) -> str | None:
    """What ``model`` asks for: None for the server's default."""
    if model in (base_name(info), info.model_id, BASE_MODEL):
        return BASE_MODEL
    return None if model in _NAMELESS else model


def models_router(frontend: Frontend, adapters: Adapters) -> APIRouter:
    routes = APIRouter(tags=["openai"], responses=documented(401, 503, openai=True))
    began = int(time.time())

    async def known() -> list[ModelAnswer]:
        base = base_name(frontend.info())
        ids = sorted({one.adapter_id for one in await adapters.known()} - {base})
        return [
            ModelAnswer(id=base, created=began, owned_by=_OWNER),
            *(ModelAnswer(id=one, created=began, owned_by=_OWNER, parent=base) for one in ids),
        ]

    @routes.get("/models", summary="The model and every known adapter")
    async def models() -> ModelsAnswer:
        return ModelsAnswer(data=await known())

    @routes.get(
        "/models/{model:path}", summary="One of them", responses=documented(404, openai=True)
    )
    async def model(model: str) -> ModelAnswer:
        for one in await known():
            if one.id == model:
                return one
        raise AdapterNotFound(f"no model or adapter {model!r} is known here")

    return routes


def _is_path(info: Info) -> bool:
    return info.model_id.startswith(("/", "./", "../", "~"))
