"""``/v1/chat/completions``: a conversation, and what the assistant says next."""

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
from lorax_spec.router.web.fields import response_format
from lorax_spec.router.web.leaving import unless_left
from lorax_spec.router.web.openai import asking, calling
from lorax_spec.router.web.openai.answers import (
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    MessageAnswer,
    finish,
    usage,
)
from lorax_spec.router.web.openai.chat_stream import ChoiceStream
from lorax_spec.router.web.openai.logprobs import chat_logprobs
from lorax_spec.router.web.openai.schemas import ChatBody, MessageField, text_of
from lorax_spec.types import Details, GenerateRequest, Info, Message, ResponseFormat

_DONE = "[DONE]"
_ERRORS = (400, 401, 403, 404, 424, 429, 500, 503)


def chat_router(frontend: Frontend) -> APIRouter:
    routes = APIRouter(tags=["openai"], responses=documented(*_ERRORS, openai=True))

    @routes.post(
        "/chat/completions",
        response_model=ChatAnswer,
        responses=sse.documented(ChatChunk, OpenAIErrorAnswer, last=_DONE),
        summary="Go on with a conversation",
        description="With `stream`, events with parts of such an answer, and at last `[DONE]`.",
    )
    async def chat(request: Request, body: ChatBody) -> Response:
        info, plan = frontend.info(), calling.plan(body)
        asked = _asked(body, info, plan)
        kind = "chat.completion.chunk" if body.stream else "chat.completion"
        head = asking.head("chatcmpl", kind, body.model, info)
        if body.stream:
            chunks = _chunks(frontend, body, plan, asked, head)
            path = request.scope["path"]
            return await sse.begin(request, chunks, lambda error: openai_error(error, path))
        answer = await unless_left(request.receive, _whole(frontend, body, plan, asked, head))
        return Response(answer.model_dump_json(), media_type="application/json")

    return routes


def _asked(body: ChatBody, info: Info, plan: calling.Plan) -> list[GenerateRequest]:
    asking.check_room(body.n or 1, info)
    limits = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(limits) > 1:
        problem = "`max_completion_tokens` is another than `max_tokens`"
        raise InvalidArgument(problem, "max_completion_tokens")
    if body.top_logprobs and not body.logprobs:
        raise InvalidArgument("`top_logprobs` needs `logprobs`", "top_logprobs")
    asked = asking.request(
        body,
        info,
        max_new_tokens=next(iter(limits), None),
        return_k_alternatives=body.top_logprobs or None,
        details=bool(body.logprobs),
        response_format=plan.format or _format(body),
    )
    if body.prediction is not None:
        if asked.speculation.reference is not None:
            problem = "`prediction` cannot be given beside `speculation.reference`"
            raise InvalidArgument(problem, "prediction")
        text = text_of(body.prediction.content)
        asked = replace(asked, speculation=replace(asked.speculation, reference=text))
    return asking.several(replace(asked, messages=_messages(body, plan)), body.n or 1)


def _format(body: ChatBody) -> ResponseFormat | None:
    wanted = body.response_format
    if wanted is None:
        return None
    schema = wanted.schema_ if wanted.json_schema is None else wanted.json_schema.schema_
    return response_format(wanted.type, schema)


def _messages(body: ChatBody, plan: calling.Plan) -> tuple[Message, ...]:
    """With the functions described in the system message, which is the first."""
    turns = [Message(_role(one), _content(one)) for one in body.messages]
    if plan.instructions:
        if turns[0].role == "system":
            turns[0] = Message("system", f"{turns[0].content}\n\n{plan.instructions}")
        else:
            turns.insert(0, Message("system", plan.instructions))
    return tuple(turns)


def _role(message: MessageField) -> str:
    return "system" if message.role == "developer" else message.role


def _content(message: MessageField) -> str:
    parts = (text_of(message.content), calling.as_text(message.tool_calls or ()))
    return "\n".join(filter(None, parts))


async def _whole(
    frontend: Frontend,
    body: ChatBody,
    plan: calling.Plan,
    asked: list[GenerateRequest],
    head: dict[str, Any],
) -> ChatAnswer:
    responses = await asking.completed(frontend, asked)
    choices = []
    for place, response in enumerate(responses):
        details, made = response.details, calling.calls(plan, response.generated_text)
        reason = finish(details.finish_reason)
        choices.append(
            ChatChoice(
                index=place,
                message=MessageAnswer(
                    content=None if made else response.generated_text, tool_calls=made or None
                ),
                logprobs=chat_logprobs(details.tokens) if body.logprobs else None,
                finish_reason="tool_calls" if made and reason == "stop" else reason,
            )
        )
    every = [response.details for response in responses]
    return ChatAnswer(**head, choices=choices, usage=usage([every]))


async def _chunks(
    frontend: Frontend,
    body: ChatBody,
    plan: calling.Plan,
    asked: list[GenerateRequest],
    head: dict[str, Any],
) -> AsyncGenerator[bytes]:
    streams = [ChoiceStream(place, plan, bool(body.logprobs)) for place in range(len(asked))]
    ended: list[Details] = []
    async with aclosing(asking.streamed(frontend, asked)) as parts:
        async for place, events in parts:
            choices = streams[place].add(events)
            ended += [event.details for event in events if event.details is not None]
            if choices:
                yield sse.events(_line(ChatChunk(**head, choices=[one])) for one in choices)
    if body.stream_options is not None and body.stream_options.include_usage:
        yield sse.event(_line(ChatChunk(**head, choices=[], usage=usage([ended]))))
    yield sse.event(_DONE)


def _line(chunk: ChatChunk) -> str:
    """Without what a delta does not say: clients would take a null for a change."""
    return chunk.model_dump_json(exclude_unset=True)
