"""OpenAI's API, as far as it speaks of text: models, completions, chats."""

from __future__ import annotations

from fastapi import APIRouter

from lorax_spec.router.adapters import Adapters
from lorax_spec.router.frontend import Frontend
from lorax_spec.router.web.openai.chat import chat_router
from lorax_spec.router.web.openai.completions import completions_router
from lorax_spec.router.web.openai.names import models_router


def router(frontend: Frontend, adapters: Adapters) -> APIRouter:
    routes = APIRouter(prefix="/v1")
    routes.include_router(models_router(frontend, adapters))
    routes.include_router(completions_router(frontend))
    routes.include_router(chat_router(frontend))
    return routes
