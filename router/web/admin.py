"""The routes that say what the server is and holds, and those that change it."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Depends, Response

from lorax_spec.errors import LoraxSpecError
from lorax_spec.router.adapters import Adapters
from lorax_spec.router.frontend import Frontend
from lorax_spec.router.web.answers import AdapterAnswer, InfoAnswer, adapter_answer, info_answer
from lorax_spec.router.web.auth import require_admin, require_user
from lorax_spec.router.web.errors import ErrorAnswer, documented
from lorax_spec.router.web.lorax import answers_at_all
from lorax_spec.router.web.schemas import LoadBody
from lorax_spec.text.validate import MAX_BEST_OF, MAX_STOP_STRINGS
from lorax_spec.v1 import lorax_spec_pb2 as pb


def health_router(frontend: Frontend, draining: Callable[[], bool]) -> APIRouter:
    """Open to everybody."""
    routes = APIRouter(tags=["server"], responses={503: {"model": ErrorAnswer}})

    @routes.get("/health", summary="Whether requests are served", response_class=Response)
    @routes.get("/ping", include_in_schema=False)
    @routes.get("/", include_in_schema=False)
    async def health() -> Response:
        return _well(frontend.ready and not draining())

    @routes.get("/startup", summary="Whether a token can be generated", response_class=Response)
    async def startup() -> Response:
        try:
            await answers_at_all(frontend)
        except LoraxSpecError:
            return _well(False)
        return _well(True)

    return routes


def info_router(frontend: Frontend) -> APIRouter:
    routes = APIRouter(tags=["server"], responses=documented(401, 503))

    @routes.get("/info", summary="The model, and the limits of requests")
    async def info() -> InfoAnswer:
        return info_answer(frontend.info(), MAX_BEST_OF, MAX_STOP_STRINGS)

    return routes


def adapters_router(adapters: Adapters) -> APIRouter:
    """Looking is for users, changing for admins."""
    routes = APIRouter(tags=["adapters"], responses=documented(401, 503))
    changes = APIRouter(
        prefix="/adapters",
        dependencies=[Depends(require_admin)],
        responses=documented(403, 404, 422, 424),
    )

    @routes.get("/adapters", summary="Every known adapter", dependencies=[Depends(require_user)])
    async def known() -> list[AdapterAnswer]:
        return [adapter_answer(info) for info in await adapters.known()]

    @changes.post("", summary="Bring an adapter to the device before anybody asks for it")
    async def load(body: LoadBody) -> AdapterAnswer:
        fields = body.model_dump(exclude_none=True)
        return adapter_answer(await adapters.load(pb.LoadAdapterRequest(**fields)))

    @changes.delete(
        "/{adapter_id:path}", summary="Drop an adapter; requests that run on it finish first"
    )
    async def unload(adapter_id: str) -> AdapterAnswer:
        request = pb.UnloadAdapterRequest(adapter_id=adapter_id)
        return adapter_answer(await adapters.unload(request))

    @changes.post("/{adapter_id:path}/pin", summary="Keep an adapter on the device")
    async def pin(adapter_id: str) -> AdapterAnswer:
        request = pb.PinAdapterRequest(adapter_id=adapter_id, pinned=True)
        return adapter_answer(await adapters.pin(request))

    @changes.post("/{adapter_id:path}/unpin", summary="Let an adapter go when room is needed")
    async def unpin(adapter_id: str) -> AdapterAnswer:
        request = pb.PinAdapterRequest(adapter_id=adapter_id, pinned=False)
        return adapter_answer(await adapters.pin(request))

    routes.include_router(changes)
    return routes


def _well(well: bool) -> Response:
    if well:
        return Response(status_code=200)
    content = ErrorAnswer(error="unhealthy", error_type="healthcheck").model_dump_json()
    return Response(content, 503, media_type="application/json")
