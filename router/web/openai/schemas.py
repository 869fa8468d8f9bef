"""What OpenAI's clients send; below each request, the fields that only this server has."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lorax_spec.router.web.fields import SpeculationField, Strict


class StreamOptions(Strict):
    include_usage: bool | None = Field(
        default=None, description="Let a last event of the stream, without choices, tell the usage."
    )
    include_obfuscation: bool | None = Field(default=None, description="Events are never padded.")


class JsonSchemaField(Strict):
    name: str = ""
    description: str | None = None
    schema_: Any = Field(default=None, alias="schema")
    strict: bool | None = Field(
        default=None, description="A schema is always followed to the letter."
    )


class ResponseFormatField(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaField | None = None
    schema_: Any = Field(default=None, alias="schema", description="LoRAX's place for the schema.")


class CommonBody(Strict):
    model: str = Field(
        description="An adapter's id, or the model's own; empty, tgi, dummy: the server's default."
    )
    n: int | None = Field(default=None, ge=1, le=128, description="So many answers.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = Field(default=None, description="Absent: 1. 0: greedy.")
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = Field(default=None, description="By token id.")
    seed: int | None = Field(
        default=None,
        description="Answer i of n samples with (seed + i * 0x9E3779B97F4A7C15) mod 2^64.",
    )
    stop: str | list[str] | None = None
    user: str | None = Field(default=None, description="Not used.")
    adapter_source: Literal["hub", "local", "s3"] | None = None
    adapter_revision: str | None = None
    api_token: str | None = Field(default=None, description="Token for a private adapter.")
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    ignore_eos_token: bool | None = None
    truncate: int | None = Field(
        default=None, description="Keep so many of the prompt's last tokens."
    )
    speculation: SpeculationField | None = None


class CompletionBody(CommonBody):
    prompt: str | list[str] = Field(description="Text; token ids are not taken.")
    best_of: int | None = None
    echo: bool | None = Field(default=None, description="Put the prompt before the answer.")
    logprobs: int | None = Field(default=None, ge=0, le=100)
    suffix: str | None = Field(default=None, description="Not supported.")


class TextPart(Strict):
    type: Literal["text"]
    text: str


class CalledFunction(Strict):
    name: str
    arguments: str


class ToolCallField(Strict):
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class MessageField(Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = Field(default=None, description="Not used.")
    tool_calls: list[ToolCallField] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class FunctionField(Strict):
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = Field(default=None, description="A JSON schema.")
    strict: bool | None = Field(
        default=None, description="A schema is always followed to the letter."
    )


class ToolField(Strict):
    type: Literal["function"]
    function: FunctionField


class NamedFunction(Strict):
    name: str


class NamedTool(Strict):
    type: Literal["function"]
    function: NamedFunction


class PredictionField(Strict):
    """Text that the answer is likely to repeat: prompt lookup searches it as well."""

    type: Literal["content"]
    content: str | list[TextPart]


class ChatBody(CommonBody):
    messages: list[MessageField] = Field(min_length=1)
    max_completion_tokens: int | None = Field(
        default=None,
        description="Absent, like max_tokens: as many as the token limit leaves room for.",
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=100)
    response_format: ResponseFormatField | None = None
    tools: list[ToolField] | None = None
    tool_choice: str | NamedTool | None = Field(
        default=None,
        description='"none", "auto", "required", a function\'s name, or OpenAI\'s object.',
    )
    parallel_tool_calls: bool | None = Field(default=None, description="Not used.")
    prediction: PredictionField | None = None
    metadata: dict[str, str] | None = Field(default=None, description="Not used.")
    store: bool | None = Field(default=None, description="Nothing is stored.")
    service_tier: str | None = Field(default=None, description="Not used.")
    safety_identifier: str | None = Field(default=None, description="Not used.")
    prompt_cache_key: str | None = Field(default=None, description="Not used.")


def text_of(content: str | list[TextPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)
