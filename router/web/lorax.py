"""The routes that LoRAX's and TGI's clients call."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.security.utils import get_authorization_scheme_param

from lorax_spec.errors import Overloaded
from lorax_spec.router.frontend import Frontend
from lorax_spec.router.web import sse
from lorax_spec.router.web.answers import (
    GenerateAnswer,
    PieceAnswer,
    StreamAnswer,
    TokenAnswer,
    generate_answer,
    stream_details,
    token_answer,
    top_answers,
)
from lorax_spec.router.web.errors import ErrorAnswer, documented, lorax_error
from lorax_spec.router.web.leaving import unless_left
from lorax_spec.router.web.schemas import CompatibleBody, GenerateBody, TokenizeBody
from lorax_spec.types import Details, GenerateRequest, Info, StreamResponse
from lorax_spec.wire import request_from_pb, request_to_pb

_ERRORS = (401, 403, 404, 422, 424, 429, 500, 503)


def generation_router(frontend: Frontend) -> APIRouter:
    routes = APIRouter(tags=["generation"], responses=documented(*_ERRORS))

    async def whole(request: Request, body: GenerateBody) -> tuple[GenerateAnswer, dict[str, str]]:
        began = time.monotonic()
        asked = _asked(request, body)
        response = await unless_left(request.receive, frontend.complete(asked))
        wanted = body.parameters
        details = wanted is not None and bool(wanted.details or wanted.decoder_input_details)
        answer = generate_answer(response, details, _tops(body))
        seconds = time.monotonic() - began
        head = _head(asked, frontend.info(), len(body.inputs))
        return answer, {**head, **_figures(response.details, seconds)}

    async def streamed(request: Request, body: GenerateBody) -> sse.EventStream:
        asked = _asked(request, body)
        wanted = body.parameters
        steps = wanted is not None and bool(wanted.step_details)
        chunks = _chunks(frontend.stream(asked), _tops(body), steps)
        headers = _head(asked, frontend.info(), len(body.inputs))
        return await sse.begin(request, chunks, lorax_error, headers)

    @routes.post("/generate", response_model=GenerateAnswer, summary="One whole answer")
    async def generate(request: Request, body: GenerateBody) -> Response:
        answer, headers = await whole(request, body)
        return _json(answer.model_dump_json(), headers)

    @routes.post(
        "/generate_stream",
        summary="An answer token by token",
        status_code=200,
        response_class=sse.EventStream,
        responses=sse.documented(StreamAnswer, ErrorAnswer),
    )
    async def generate_stream(request: Request, body: GenerateBody) -> Response:
        return await streamed(request, body)

    @routes.post(
        "/",
        summary="As LoRAX's own client asks",
        description="With `stream` the events of /generate_stream, else a list of one answer.",
        response_model=list[GenerateAnswer],
        responses=sse.documented(StreamAnswer, ErrorAnswer),
    )
    async def compatible(request: Request, body: CompatibleBody) -> Response:
        if body.stream:
            return await streamed(request, body)
        answer, headers = await whole(request, body)
        return _json(f"[{answer.model_dump_json()}]", headers)

    @routes.post("/tokenize", summary="The tokens of a text")
    async def tokenize(body: TokenizeBody) -> list[PieceAnswer]:
        pieces = await frontend.tokenize(body.inputs, body.add_special_tokens is not False)
        return [
            PieceAnswer(id=one.id, text=one.text, start=one.start, stop=one.stop) for one in pieces
        ]

    return routes


async def answers_at_all(frontend: Frontend) -> None:
    """Generate one token.  Raises the LoraxSpecError that prevents it; a full house is none."""
    body = CompatibleBody.model_validate({"inputs": "x", "parameters": {"max_new_tokens": 1}})
    try:
        await frontend.complete(body.request(None))
    except Overloaded:
        return


def _asked(request: Request, body: GenerateBody) -> GenerateRequest:
    """By way of the wire, so that it means what it means over gRPC: float32, and ranges."""
    return request_from_pb(request_to_pb(body.request(_bearer(request))))


def _bearer(request: Request) -> str | None:
    """Of a server that asks for no keys of its own, it is the token for private adapters."""
    if request.app.state.keys is not None:
        return None
    scheme, token = get_authorization_scheme_param(request.headers.get("authorization"))
    return token if scheme.lower() == "bearer" and token else None


def _tops(body: GenerateBody) -> bool:
    return body.parameters is not None and body.parameters.top_n_tokens is not None


def _json(content: str, headers: dict[str, str]) -> Response:
    return Response(content, headers=headers, media_type="application/json")


async def _chunks(
    batches: AsyncGenerator[list[StreamResponse]], top_tokens: bool, step_details: bool
) -> AsyncGenerator[bytes]:
    """An event for each token, the text and details with the last."""
    index = 0
    async with aclosing(batches):
        async for batch in batches:
            lines = []
            for event in batch:
                if event.token is None:
                    continue
                index += 1
                line = StreamAnswer(
                    index=index,
                    token=token_answer(event.token),
                    top_tokens=top_answers(event.token) if top_tokens else None,
                    speculation=event.speculation if step_details else None,
                    rejected=list(event.rejected) if event.rejected else None,
                )
                lines.append(line)
            last = batch[-1]
            if last.details is not None:
                if not lines:  # its token was sent before it was known to be the last
                    nothing = TokenAnswer(id=0, text="", logprob=0.0, special=True)
                    lines.append(StreamAnswer(index=index + 1, token=nothing))
                ending = {
                    "generated_text": last.generated_text,
                    "details": stream_details(last.details),
                }
                lines[-1] = lines[-1].model_copy(update=ending)
            yield sse.events(line.model_dump_json() for line in lines)


def _head(asked: GenerateRequest, info: Info, characters: int) -> dict[str, str]:
    """What is known before the answer.  Ids are quoted as in a URL."""
    if asked.merged_adapters is not None:
        ids = asked.merged_adapters.ids
    else:
        ids = (asked.adapter_id or info.default_adapter_id,)
    headers = {
        "x-compute-type": info.device,
        "x-compute-characters": str(characters),
        "x-model-id": quote(info.model_id),
    }
    if any(ids):
        headers["x-adapter-id"] = ",".join(quote(one) for one in ids)
    if asked.adapter_source:
        headers["x-adapter-source"] = asked.adapter_source
    return headers


def _figures(details: Details, seconds: float) -> dict[str, str]:
    """Times are whole milliseconds; x-validation-time is what passed before generating began."""
    timings, tokens = details.timings, details.generated_tokens
    waited = timings.queue + timings.adapter_load
    inference = max(0.0, timings.total - waited)
    times = {
        "x-compute-time": timings.total,
        "x-total-time": seconds,
        "x-validation-time": max(0.0, seconds - timings.total),
        "x-queue-time": timings.queue,
        "x-adapter-load-time": timings.adapter_load,
        "x-inference-time": inference,
        "x-time-per-token": inference / max(1, tokens),
        "x-time-to-first-token": timings.first_token,
        "x-time-per-output-token": timings.per_token,
    }
    counts = {
        "x-prompt-tokens": details.prompt_tokens,
        "x-generated-tokens": tokens,
        "x-skipped-tokens": details.skipped_tokens,
        "x-total-tokens": details.prompt_tokens + tokens,
        "x-drafted-tokens": details.speculation.drafted_tokens,
        "x-accepted-tokens": details.speculation.accepted_tokens,
        "x-forward-passes": details.speculation.forward_passes,
    }
    return {
        **{name: str(round(1000 * value)) for name, value in times.items()},
        **{name: str(count) for name, count in counts.items()},
    }
