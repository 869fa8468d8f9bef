"""``/v1/completions``: a prompt, or several, and what comes after."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response

from lorax_spec.errors import InvalidArgument
from lorax_spec.router.frontend import Frontend
from lorax_spec.router.web import sse
from lorax_spec.router.web.errors import OpenAIErrorAnswer, documented, openai_error
from lorax_spec.router.web.leaving import unless_left
from lorax_spec.router.web.openai import asking
from lorax_spec.router.web.openai.answers import (
    CompletionAnswer,
    CompletionChoice,
    CompletionLogprobs,
    finish,
    usage,
)
from lorax_spec.router.web.openai.logprobs import completion_logprobs
from lorax_spec.router.web.openai.schemas import CompletionBody
from lorax_spec.types import Details, GenerateRequest, Info, StreamResponse, Token

#: OpenAI's own.
_DEFAULT_TOKENS = 16
_DONE = "[DONE]"
_ERRORS = (400, 401, 403, 404, 424, 429, 500, 503)


def completions_router(frontend: Frontend) -> APIRouter:
    routes = APIRouter(tags=["openai"], responses=documented(*_ERRORS, openai=True))

    @routes.post(
        "/completions",
        response_model=CompletionAnswer,
        responses=sse.documented(CompletionAnswer, OpenAIErrorAnswer, last=_DONE),
        summary="Go on with a text",
        description="With `stream`, events with parts of such an answer, and at last `[DONE]`.",
    )
    async def completions(request: Request, body: CompletionBody) -> Response:
        info = frontend.info()
        asked = _asked(body, info)
        head = asking.head("cmpl", "text_completion", body.model, info)
        if body.stream:
            chunks = _chunks(frontend, body, asked, head)
            path = request.scope["path"]
            return await sse.begin(request, chunks, lambda error: openai_error(error, path))
        answer = await unless_left(request.receive, _whole(frontend, body, asked, head))
        return Response(answer.model_dump_json(), media_type="application/json")

    return routes


def _asked(body: CompletionBody, info: Info) -> list[GenerateRequest]:
    """For each prompt ``n`` of them."""
    count, best_of = body.n or 1, body.best_of or 1
    if body.suffix:
        raise InvalidArgument("`suffix` is not supported", "suffix")
    if best_of > 1 and (body.stream or count > 1) and best_of != count:
        problem = "`best_of` above 1 goes neither with `stream` nor with another `n`"
        raise InvalidArgument(problem, "best_of")
    logprobs, echo = body.logprobs, bool(body.echo)
    if body.stream and echo and logprobs is not None:
        raise InvalidArgument("`logprobs` of an echo cannot be streamed", "logprobs")
    asked = asking.request(
        body,
        info,
        max_new_tokens=_DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens,
        return_k_alternatives=logprobs or None,
        decoder_input_details=echo and logprobs is not None,
        details=logprobs is not None,
        best_of=best_of if count == 1 and best_of > 1 else None,
    )
    prompts = _prompts(body)
    asking.check_room(len(prompts) * count, info)
    return [
        one for prompt in prompts for one in asking.several(replace(asked, inputs=prompt), count)
    ]


def _prompts(body: CompletionBody) -> list[str]:
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not prompts:
        raise InvalidArgument("`prompt` cannot be empty", "prompt")
    return prompts


async def _whole(
    frontend: Frontend, body: CompletionBody, asked: list[GenerateRequest], head: dict[str, Any]
) -> CompletionAnswer:
    responses = await asking.completed(frontend, asked)
    choices = []
    for place, response in enumerate(responses):
        details, prompt = response.details, asked[place].inputs if body.echo else ""
        choices.append(
            CompletionChoice(
                index=place,
                text=prompt + response.generated_text,
                logprobs=_logprobs(body, details.tokens, details, len(prompt)),
                finish_reason=finish(details.finish_reason),
            )
        )
    every = [response.details for response in responses]
    return CompletionAnswer(**head, choices=choices, usage=usage(_by_prompt(every, body.n or 1)))


async def _chunks(
    frontend: Frontend, body: CompletionBody, asked: list[GenerateRequest], head: dict[str, Any]
) -> AsyncGenerator[bytes]:
    lengths = [0] * len(asked)
    ended: dict[int, Details] = {}

    def line(choices: list[CompletionChoice], **fields: Any) -> str:
        return CompletionAnswer(**head, choices=choices, **fields).model_dump_json()

    async with aclosing(asking.streamed(frontend, asked)) as parts:
        async for place, events in parts:
            lines = []
            if body.echo and not lengths[place]:
                text = asked[place].inputs
                lines.append(line([CompletionChoice(index=place, text=text, finish_reason=None)]))
                lengths[place] = len(text)
            for event in events:
                choice = _choice(body, place, event, lengths[place])
                lengths[place] += len(choice.text)
                if choice.text or choice.logprobs or choice.finish_reason:
                    lines.append(line([choice]))
                if event.details is not None:
                    ended[place] = event.details
            if lines:
                yield sse.events(lines)
    if body.stream_options is not None and body.stream_options.include_usage:
        every = [ended[place] for place in range(len(asked))]
        yield sse.event(line([], usage=usage(_by_prompt(every, body.n or 1))))
    yield sse.event(_DONE)


def _choice(
    body: CompletionBody, place: int, event: StreamResponse, offset: int
) -> CompletionChoice:
    token, details = event.token, event.details
    return CompletionChoice(
        index=place,
        text="" if token is None else token.text,
        logprobs=None if token is None else _logprobs(body, (token,), None, offset),
        finish_reason=None if details is None else finish(details.finish_reason),
    )


def _logprobs(
    body: CompletionBody, tokens: tuple[Token, ...], details: Details | None, offset: int
) -> CompletionLogprobs | None:
    """With the prompt's where ``details`` have them; the prompt is before the first ``offset``."""
    if body.logprobs is None:
        return None
    if details is not None and details.prefill:
        return completion_logprobs(tokens, 0, details.prefill)
    return completion_logprobs(tokens, offset)


def _by_prompt(details: list[Details], count: int) -> list[list[Details]]:
    return [details[start : start + count] for start in range(0, len(details), count)]
