"""What OpenAI's clients read."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from lorax_spec.types import Details, FinishReason

Finish = Literal["stop", "length", "tool_calls"]


class CompletionTokensDetails(BaseModel):
    """Of all drafted tokens, those that were right, and those that were not."""

    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Head(BaseModel):
    """What every answer begins with, and every event of a stream."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Finish | None


class CompletionAnswer(Head):
    choices: list[CompletionChoice]
    usage: Usage | None = None


class FunctionAnswer(BaseModel):
    name: str | None = None
    arguments: str


class ToolCallAnswer(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: FunctionAnswer


class ToolCallDelta(BaseModel):
    """``id``, ``type`` and the function's name come with the first delta of a call."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionAnswer


class MessageAnswer(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCallAnswer] | None = None


class ChatChoice(BaseModel):
    index: int
    message: MessageAnswer
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish


class ChatAnswer(Head):
    choices: list[ChatChoice]
    usage: Usage


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish | None = None


class ChatChunk(Head):
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class ModelAnswer(BaseModel):
    """``parent`` is None for the model itself, and the model's id for its adapters."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    parent: str | None = None


class ModelsAnswer(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelAnswer]


def finish(reason: FinishReason) -> Finish:
    return "length" if reason is FinishReason.LENGTH else "stop"


def usage(prompts: list[list[Details]]) -> Usage:
    """Of each prompt the details of its answers: the prompt counts once."""
    every = [details for answers in prompts for details in answers]
    read = sum(answers[0].prompt_tokens for answers in prompts)
    written = sum(details.generated_tokens for details in every)
    accepted = sum(details.speculation.accepted_tokens for details in every)
    drafted = sum(details.speculation.drafted_tokens for details in every)
    return Usage(
        prompt_tokens=read,
        completion_tokens=written,
        total_tokens=read + written,
        completion_tokens_details=CompletionTokensDetails(
            accepted_prediction_tokens=accepted, rejected_prediction_tokens=drafted - accepted
        ),
    )
