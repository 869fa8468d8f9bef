"""What counts as the call of a function, and what grammar makes sure of one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lorax_spec.errors import InvalidArgument
from lorax_spec.router.web.openai.calling import Plan, calls, may_be_call, plan
from lorax_spec.router.web.openai.schemas import ChatBody
from lorax_spec.text.response_format import check_response_format

NUMBER = {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "$defs": {"n": {}}}
PLAN = Plan("maybe", ("add", "wait"))


def body(**fields: Any) -> ChatBody:
    functions = fields.pop("functions", ({"name": "add", "parameters": NUMBER}, {"name": "wait"}))
    tools = [{"type": "function", "function": function} for function in functions]
    messages = [{"role": "user", "content": "x"}]
    return ChatBody.model_validate({"model": "", "messages": messages, "tools": tools, **fields})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"name": "add", "arguments": {"n": 1}}', [("add", '{"n": 1}')]),
        ('  {"name": "add", "parameters": {"n": "é"}}\n', [("add", '{"n": "é"}')]),
        ('[{"name": "add", "arguments": "{}"}, {"name": "wait", "arguments": {}}]', 2),
        ('<tool_call>\n{"name": "wait", "arguments": {}}\n</tool_call>', [("wait", "{}")]),
        ('<tool_call>{"name": "wait", "arguments": {}}</tool_call><tool_call>x', [("wait", "{}")]),
        ('{"name": "other", "arguments": {}}', []),
        ('[{"name": "add", "arguments": {}}, 3]', []),
        ('{"name": "add"}', []),
        ('{"name": "add", "arguments": {}', []),
        ("I add.", []),
        ("[" * 10_000, []),
        ("[]", []),
    ],
)
def test_reading(text: str, wanted: Any) -> None:
    made = [(call.function.name, call.function.arguments) for call in calls(PLAN, text)]
    assert made == wanted if isinstance(wanted, list) else len(made) == wanted
    assert calls(Plan("text"), text) == []


def test_a_beginning_that_may_be_a_call_is_known() -> None:
    for text in ("", "\n ", "{", '[{"n', "<", "<tool", "<tool_call>{"):
        assert may_be_call(text), text
    for text in ("I", "<b>", " `{"):
        assert not may_be_call(text), text


def test_a_required_call_has_a_grammar_that_can_be_followed() -> None:
    several = plan(body(tool_choice="required"))
    assert several.mode == "call" and several.format is not None
    schema = json.loads(several.format.schema)
    assert schema["$defs"] == {"n": {}}, "references look at the root"
    assert [one["properties"]["name"] for one in schema["anyOf"]] == [
        {"const": "add"},
        {"const": "wait"},
    ]
    check_response_format(several.format)
    for choice in ("wait", {"type": "function", "function": {"name": "wait"}}):
        named = plan(body(tool_choice=choice))
        assert (named.mode, named.names) == ("arguments", ("wait",))
        assert named.format is not None and "const" not in named.format.schema
    assert plan(body(tool_choice="none")) == Plan("text")
    assert plan(body()).format is None
    assert '"add"' in plan(body()).instructions


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tool_choice": "other"}, "tool_choice"),
        ({"tool_choice": "required", "tools": None}, "tool_choice"),
        ({"functions": ({"name": "a"}, {"name": "a"})}, "tools"),
        (
            {"tool_choice": "required", "response_format": {"type": "json_object"}},
            "response_format",
        ),
        (
            {
                "tool_choice": "required",
                "functions": (
                    {"name": "a", "parameters": NUMBER},
                    {"name": "b", "parameters": {**NUMBER, "$defs": {"n": {"type": "string"}}}},
                ),
            },
            "tools",
        ),
    ],
)
def test_what_cannot_be_asked(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        plan(body(**fields))
    assert caught.value.field == field
