"""Functions that the model may call, told as text and held to by a grammar.

No two models are tuned to the same form of a call, and many to none, so this server has one of its
own: the functions are described in the system message, and a call is a JSON object with the keys
``name`` and ``arguments``.  Where a call is required, a grammar lets nothing else pass; where it is
left to the model, an answer is read as a call if it is one, also in the tags ``<tool_call>`` that
several models write.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lorax_spec.errors import InvalidArgument
from lorax_spec.router.web.fields import response_format
from lorax_spec.router.web.openai.answers import FunctionAnswer, ToolCallAnswer
from lorax_spec.router.web.openai.schemas import ChatBody, FunctionField, NamedTool, ToolCallField
from lorax_spec.types import ResponseFormat

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)
_TAG = "<tool_call>"
_INTRODUCTION = (
    "You can call functions. To call one, answer with nothing but a JSON object that has its"
    ' "name" and its "arguments". The functions are:\n'
)


@dataclass(frozen=True)
class Plan:
    """How an answer is to be read.

    ``mode``: text, for no calls; ``maybe``, where the model decides; ``call``, where the answer is
    a call; ``arguments``, where it is the arguments of the one function there is.
    """

    mode: Literal["text", "maybe", "call", "arguments"]
    names: tuple[str, ...] = ()
    instructions: str = ""
    format: ResponseFormat | None = None


def plan(body: ChatBody) -> Plan:
    """Raises InvalidArgument naming ``tools`` or ``tool_choice``."""
    functions = [tool.function for tool in body.tools or ()]
    choice = body.tool_choice
    if isinstance(choice, NamedTool):
        choice = choice.function.name
    if not functions:
        if choice not in (None, "none", "auto"):
            raise InvalidArgument("`tool_choice` needs `tools`", "tool_choice")
        return Plan("text")
    names = tuple(function.name for function in functions)
    if len(set(names)) < len(names):
        raise InvalidArgument("`tools` has two functions of one name", "tools")
    if choice == "none":
        return Plan("text")
    if choice in (None, "auto"):
        return Plan("maybe", names, _describe(functions))
    if body.response_format is not None and body.response_format.type != "text":
        problem = "`response_format` cannot be given where a function must be called"
        raise InvalidArgument(problem, "response_format")
    if choice != "required":
        functions = [function for function in functions if function.name == choice]
        if not functions:
            raise InvalidArgument(f"`tool_choice` names {choice!r}, no function", "tool_choice")
    instructions, names = _describe(functions), tuple(one.name for one in functions)
    if len(functions) == 1:
        schema = _parameters(functions[0])
        return Plan("arguments", names, instructions, response_format("json_schema", schema))
    return Plan("call", names, instructions, response_format("json_schema", _any_call(functions)))


def may_be_call(text: str) -> bool:
    """Whether an answer that begins so may turn out to be a call."""
    start = text.lstrip()
    return not start or start[0] in "{[" or start.startswith(_TAG) or _TAG.startswith(start)


def calls(plan: Plan, text: str) -> list[ToolCallAnswer]:
    """The calls that an answer is; none where it is text."""
    if plan.mode == "arguments":
        return [tool_call(plan.names[0], text)]
    if plan.mode == "text":
        return []
    found = [one for part in _TAGGED.findall(text) or [text] for one in _parsed(part)]
    if not found or any(name not in plan.names for name, _ in found):
        return []
    return [tool_call(name, arguments) for name, arguments in found]


def tool_call(name: str, arguments: str) -> ToolCallAnswer:
    function = FunctionAnswer(name=name, arguments=arguments)
    return ToolCallAnswer(id=f"call_{secrets.token_hex(12)}", function=function)


def as_text(made: Sequence[ToolCallField]) -> str:
    """Calls of an earlier turn, as they were to be written."""
    return "\n".join(
        f'{{"name": {json.dumps(one.function.name)}, "arguments": {one.function.arguments}}}'
        for one in made
    )


def _parsed(text: str) -> list[tuple[str, str]]:
    """Name and arguments of each call; nothing where any of it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    found = []
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            return []
        arguments = one.get("arguments", one.get("parameters"))
        if isinstance(arguments, dict):
            arguments = json.dumps(arguments, ensure_ascii=False)
        if not isinstance(arguments, str):
            return []
        found.append((one["name"], arguments))
    return found


def _describe(functions: Sequence[FunctionField]) -> str:
    lines = (
        json.dumps(
            {
                "name": function.name,
                **({"description": function.description} if function.description else {}),
                "parameters": _parameters(function),
            },
            ensure_ascii=False,
        )
        for function in functions
    )
    return _INTRODUCTION + "\n".join(lines)


def _parameters(function: FunctionField) -> dict[str, Any]:
    return function.parameters or {"type": "object", "properties": {}}


def _any_call(functions: Sequence[FunctionField]) -> dict[str, Any]:
    """A schema of a call of any of them; definitions move to its root, where references look."""
    definitions: dict[str, dict[str, Any]] = {"$defs": {}, "definitions": {}}
    options = []
    for function in functions:
        parameters = dict(_parameters(function))
        for place, known in definitions.items():
            for name, schema in parameters.pop(place, {}).items():
                if known.setdefault(name, schema) != schema:
                    raise InvalidArgument(f"`tools` define {name!r} differently", "tools")
        options.append(
            {
                "type": "object",
                "properties": {"name": {"const": function.name}, "arguments": parameters},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return {"anyOf": options, **{place: known for place, known in definitions.items() if known}}
