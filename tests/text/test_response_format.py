"""Formats are served as they are or refused by name, before any model is asked."""

from __future__ import annotations

import json

import pytest

from lorax_spec.client.arguments import build_request
from lorax_spec.errors import InvalidArgument
from lorax_spec.text.json_schema import check_schema
from lorax_spec.text.response_format import MAX_CHARACTERS, MAX_CHOICES, check_response_format
from lorax_spec.types import ResponseFormat

TAGGED = [
    {
        "type": "object",
        "properties": {"kind": {"const": kind}, "size": {"type": "integer"}},
        "required": ["kind"],
    }
    for kind in ("cat", "dog")
]


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        ("text", ""),
        ("json_object", ""),
        ("json_object", '{"type": "object"}'),
        ("json_schema", '{"type": "integer"}'),
        ("regex", "a{2,1}"),  # only the compiler knows
        ("choice", '["yes", "no"]'),
    ],
)
def test_what_may_be_asked_for(kind: str, schema: str) -> None:
    check_response_format(ResponseFormat(kind, schema))


@pytest.mark.parametrize(
    ("kind", "schema", "problem"),
    [
        ("xml", "", "has a type 'xml', not one of text, json_object"),
        ("json_schema", "", "needs a schema"),
        ("regex", "", "needs a schema"),
        ("choice", "", "needs a schema"),
        ("json_schema", "{", "not JSON"),
        ("json_object", "[" * 50_000, "not JSON"),
        ("json_object", "[]", "neither an object nor a boolean"),
        ("choice", '"yes"', "list of 1 to"),
        ("choice", "[]", "list of 1 to"),
        ("choice", '["yes", ""]', "non-empty"),
        ("choice", '["yes", 1]', "strings"),
        ("choice", json.dumps(["x"] * (MAX_CHOICES + 1)), "list of 1 to"),
        ("regex", "a" * (MAX_CHARACTERS + 1), "at most"),
    ],
)
def test_what_may_not(kind: str, schema: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem) as caught:
        check_response_format(ResponseFormat(kind, schema))
    assert caught.value.field == "parameters.response_format"


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"type": ["integer", "null"], "minimum": 3, "title": "T", "default": 4},
        {"type": "string", "pattern": r"^[A-Z]{3}-\d+\.\S$"},
        {"type": "string", "enum": ["a", "b"]},
        {"properties": {"not": {"type": "boolean"}}, "required": ["not"]},
        {"type": "object", "properties": {}, "additionalProperties": False},
        {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 3},
        {"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}},
        {"oneOf": TAGGED},
        {"oneOf": [{"type": "integer"}, {"type": ["string", "null"]}]},
        {"allOf": [{"type": "integer"}], "description": "as Pydantic writes a reference"},
    ],
)
def test_schemas_that_are_served(schema: object) -> None:
    assert check_schema(schema) is None


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (False, "permits nothing"),
        ({"type": "text"}, "'text'"),
        ({"minimum": 3}, "`minimum`, which cannot be enforced without a type"),
        ({"type": "array", "uniqueItems": True}, "`uniqueItems`"),
        ({"type": "array", "items": [{"type": "integer"}]}, "neither"),
        ({"type": "number", "multipleOf": 0.5}, "`multipleOf`"),
        ({"type": "integer", "multipleOf": 5, "minimum": 3}, "without bounds"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "beside"),
        ({"type": "string", "format": "date", "maxLength": 3}, "beside"),
        ({"type": "string", "format": "json-pointer"}, "json-pointer"),
        ({"type": "string", "maxLength": -1}, "no count"),
        ({"type": "array", "minItems": True}, "no count"),
        ({"type": "string", "pattern": 'a"b'}, "quotes"),
        ({"type": "string", "pattern": r"a\\b"}, "quotes"),
        ({"type": "string", "pattern": r"\x22"}, "quotes"),
        ({"type": "string", "pattern": r"\n"}, "quotes"),
        ({"type": "object", "required": ["z"]}, "'z'"),
        ({"type": "object", "minProperties": 1}, "`minProperties`"),
        ({"type": "object", "patternProperties": {}}, "`patternProperties`"),
        (
            {"type": "object", "properties": {"a": {}}, "additionalProperties": True},
            "`additionalProperties` beside `properties`",
        ),
        ({"type": "integer", "not": {"const": 3}}, "`not`"),
        ({"type": "integer", "anyOf": [{"minimum": 3}]}, "beside `anyOf`"),
        ({"$ref": "#/$defs/a", "minimum": 3}, "beside `\\$ref`"),
        ({"$ref": "other.json"}, "outside"),
        ({"allOf": [{"type": "integer"}, {"type": "number"}]}, "several"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "use `anyOf`"),
        ({"oneOf": [TAGGED[0], TAGGED[0]]}, "use `anyOf`"),
        ({"anyOf": []}, "empty `anyOf`"),
        ({"enum": []}, "`enum`"),
        ({"type": "integer", "enum": [1, "a"]}, "not of its type"),
        ({"type": "integer", "const": True}, "not of its type"),
        ({"type": "array", "items": {"type": "array", "items": {"if": {}}}}, "`if`"),
        ({"$defs": {"unused": {"contains": {}}}}, "`contains`"),
    ],
)
def test_schemas_that_are_refused(schema: object, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        check_response_format(ResponseFormat("json_schema", json.dumps(schema)))


def test_depth_is_bounded() -> None:
    deep = '{"type": "array", "items": ' * 40 + "true" + "}" * 40
    with pytest.raises(InvalidArgument, match="deep"):
        check_response_format(ResponseFormat("json_schema", deep))


def test_the_client_sends_schemas_as_json_text() -> None:
    """As LoRAX's client does with a schema, a choice as a list, and none."""

    def sent(value: dict[str, object]) -> ResponseFormat | None:
        return build_request({"response_format": value}).parameters.response_format

    schema = {"type": "object"}
    assert sent({"type": "json_object", "schema": schema}) == ResponseFormat(
        "json_object", '{"type": "object"}'
    )
    assert sent({"type": "choice", "schema": ["é", "b"]}) == ResponseFormat(
        "choice", json.dumps(["é", "b"])
    )
    assert sent({"type": "regex", "schema": "[ab]"}) == ResponseFormat("regex", "[ab]")
    assert sent({"type": "json_object", "schema": None}) == ResponseFormat("json_object")
    assert sent({"type": "json_object"}) == ResponseFormat("json_object")
