"""Formats and functions through OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pytest
from openai import OpenAI

pytestmark = pytest.mark.slow

MESSAGES: Any = [{"role": "user", "content": "def add("}]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Rome", "Oslo"]},
        "days": {"$ref": "#/$defs/days"},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"days": {"type": "integer", "minimum": 1, "maximum": 9}},
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "wait", "description": "Do nothing."}},
]


def test_answers_in_a_format(client: OpenAI) -> None:
    options: dict[str, Any] = {"model": "", "messages": MESSAGES, "max_tokens": 80}
    schema = {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER}}
    for seed in range(3):
        answer = client.chat.completions.create(response_format=schema, seed=seed, **options)
        assert answer.choices[0].finish_reason == "stop"
        jsonschema.validate(json.loads(answer.choices[0].message.content or ""), WEATHER)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            response_format={"type": "json_schema", "json_schema": {"name": "w"}}, **options
        )
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_required_call_is_made(client: OpenAI, choice: Any) -> None:
    options: dict[str, Any] = {
        "model": "demo/tests",
        "messages": MESSAGES,
        "tools": TOOLS,
        "tool_choice": choice,
        "max_tokens": 100,
    }
    names = set()
    for seed in range(4):
        answer = client.chat.completions.create(seed=seed, **options).choices[0]
        assert answer.finish_reason == "tool_calls" and answer.message.content is None
        (call,) = answer.message.tool_calls
        names.add(call.function.name)
        arguments = json.loads(call.function.arguments)
        jsonschema.validate(arguments, WEATHER if call.function.name == "weather" else {})
        with client.chat.completions.stream(seed=seed, **options) as stream:
            final = stream.get_final_completion().choices[0]
        assert final.finish_reason == "tool_calls"
        (streamed,) = final.message.tool_calls
        assert streamed.function.name == call.function.name
        assert json.loads(streamed.function.arguments) == arguments
        assert streamed.id.startswith("call_") and streamed.type == "function"
    assert names == ({"weather"} if isinstance(choice, dict) else names) <= {"weather", "wait"}


def test_a_call_that_the_model_makes_by_itself_is_read(client: OpenAI) -> None:
    """A format makes the model write what one tuned to call functions would."""
    said = '{"name": "wait", "arguments": {"a": "b"}}'
    options: dict[str, Any] = {
        "model": "",
        "messages": [{"role": "user", "content": f"{said}\n{said}\n{said}\n"}],
        "tools": TOOLS,
        "max_tokens": 60,
        "temperature": 0,
    }
    forced = {"type": "json_object", "schema": {"const": json.loads(said)}}
    for stream in (False, True):
        if stream:
            with client.chat.completions.stream(
                extra_body={"response_format": forced}, **options
            ) as running:
                choice = running.get_final_completion().choices[0]
        else:
            made = client.chat.completions.create(extra_body={"response_format": forced}, **options)
            choice = made.choices[0]
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls
        assert call.function.name == "wait" and json.loads(call.function.arguments) == {"a": "b"}
    again: Any = [
        *MESSAGES,
        {
            "role": "assistant",
            "tool_calls": [
                {"id": call.id, "type": "function", "function": {"name": "wait", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "done"},
    ]
    client.chat.completions.create(**{**options, "messages": again, "max_tokens": 4})
    none = client.chat.completions.create(
        tool_choice="none", extra_body={"response_format": forced}, **options
    )
    assert none.choices[0].message.tool_calls is None
