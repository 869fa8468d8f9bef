"""Which JSON schemas can be enforced token by token, so that every output is valid.

The compiler of grammars ignores keywords that it does not know, and some where they stand beside
others.  Here they are refused instead: a schema is served as it is, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

#: Keywords that constrain nothing.  ``format`` is an annotation too, followed where it is known.
_NOTES = frozenset(
    [
        *("$schema", "$id", "$comment", "$defs", "definitions", "title", "description"),
        *("default", "examples", "deprecated", "readOnly", "writeOnly"),
    ]
)
_BY_TYPE: Mapping[str, frozenset[str]] = {
    name: frozenset(keywords.split())
    for name, keywords in {
        "string": "minLength maxLength pattern format",
        "integer": "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf",
        "number": "minimum maximum exclusiveMinimum exclusiveMaximum",
        "boolean": "",
        "null": "",
        "array": "items prefixItems minItems maxItems",
        "object": "properties required additionalProperties minProperties maxProperties",
    }.items()
}
#: Where they stand, nothing but notes (and, with the first two, a type) may stand beside.
_ALONE = ("const", "enum", "$ref", "anyOf", "oneOf", "allOf")
_MAX_DEPTH = 32
_COUNTS = frozenset(
    ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
)
#: In a pattern: a quote, a control character, or an escape that may stand for one or a backslash.
#: The compiler would write them into the JSON text as they are.
_UNQUOTED = re.compile(r'["\x00-\x1f]|\\(?![dDwWsS]|[^\w\s"\\])')
#: Formats for which the compiler lets a bare quote into the JSON text.
_LOOSE_FORMATS = ("json-pointer", "relative-json-pointer", "uri-template", "uri-reference")


def check_schema(schema: object, depth: int = 0) -> str | None:
    """Says, as the end of a sentence about it, why ``schema`` is not served; None where it is."""
    if depth > _MAX_DEPTH:
        return f"nests schemas more than {_MAX_DEPTH} deep"
    if isinstance(schema, bool):
        return None if schema else "holds a schema that permits nothing"
    if not isinstance(schema, dict):
        return "holds a schema that is neither an object nor a boolean"
    problem = _check_keywords(schema)
    if problem is not None:
        return problem
    for inner in _inner_schemas(schema):
        problem = check_schema(inner, depth + 1)
        if problem is not None:
            return problem
    return None


def _check_keywords(schema: Mapping[str, Any]) -> str | None:
    """Whether this schema's own keywords are followed together."""
    said = {name for name in schema if name not in _NOTES}
    alone = [name for name in _ALONE if name in said]
    if alone:
        return _check_alone(alone[0], schema, said - {alone[0]})
    kinds = _types(schema)
    if kinds is None:
        return f"has a type {schema['type']!r}"
    if "type" not in schema:
        # Without a type a keyword speaks of one and permits all others, which nobody means.
        if "properties" in said:
            kinds = ("object",)
        elif "items" in said or "prefixItems" in said:
            kinds = ("array",)
        else:
            kinds = ()
    known = {"type"}.union(*(_BY_TYPE[kind] for kind in kinds))
    if said - known:
        unknown = sorted(said - known)[0]
        return f"has a keyword `{unknown}`, which cannot be enforced" + (
            "" if "type" in schema else " without a type"
        )
    return _check_together(schema, said)


def _check_together(schema: Mapping[str, Any], said: set[str]) -> str | None:
    for name in ("pattern", "format"):
        others = (said & _BY_TYPE["string"]) - {name}
        if name in said and others:
            return f"has `{name}` beside `{sorted(others)[0]}`, which cannot be enforced together"
    for name in said & _COUNTS:
        if type(schema[name]) is not int or schema[name] < 0:
            return f"has a `{name}` that is no count"
    pattern = schema.get("pattern", "")
    if not isinstance(pattern, str) or _unquoted(pattern):
        return "has a `pattern` with quotes, backslashes or control characters"
    if schema.get("format") in _LOOSE_FORMATS:
        return f"has a format {schema['format']!r}, which cannot be enforced"
    if "multipleOf" in said and (said & _BY_TYPE["number"] or schema["type"] != "integer"):
        return "has `multipleOf`, which can be enforced on integers alone, without bounds"
    properties = schema.get("properties", {})
    required = schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        return "has `properties` that are no object, or a `required` that is no list"
    missing = [name for name in required if name not in properties]
    if missing:
        return f"requires a property {missing[0]!r} that `properties` does not have"
    if "minProperties" in said and not properties:
        return "has `minProperties` without `properties`, which cannot be enforced"
    if properties and schema.get("additionalProperties") not in (None, False):
        return "has `additionalProperties` beside `properties`, which cannot be enforced together"
    return None


def _unquoted(pattern: str) -> bool:
    without_pairs = pattern.replace("\\\\", '"')
    return _UNQUOTED.search(without_pairs) is not None


def _check_alone(name: str, schema: Mapping[str, Any], others: set[str]) -> str | None:
    value = schema[name]
    if name in ("const", "enum"):
        others = others - {"type"}
        values = [value] if name == "const" else value
        if not isinstance(values, list) or not values:
            return "has an `enum` that is no list, or empty"
        kinds = _types(schema)
        if kinds is None or ("type" in schema and not all(_fits(v, kinds) for v in values)):
            return f"has a `{name}` whose values are not of its type"
    elif name == "$ref":
        if not isinstance(value, str) or not (value == "#" or value.startswith("#/")):
            return "has a `$ref` to something outside the schema"
    elif not isinstance(value, list) or not value:
        return f"has an empty `{name}`"
    elif name == "allOf" and len(value) > 1:
        return "has an `allOf` of several schemas, which cannot be enforced"
    elif name == "oneOf" and not _disjoint(value):
        return "has a `oneOf` whose schemas may hold together; use `anyOf`"
    if others:
        return f"has `{sorted(others)[0]}` beside `{name}`, which cannot be enforced together"
    return None


def _disjoint(schemas: list[Any]) -> bool:
    """Whether it is plain that no value fits two of them: their types differ, or they are objects
    that require a property of different values."""
    if not all(isinstance(schema, dict) for schema in schemas):
        return False
    seen: set[str] = set()
    for schema in schemas:
        kinds = set(_types(schema) or ()) if "type" in schema else set()
        kinds = {"number" if kind == "integer" else kind for kind in kinds}
        if not kinds or kinds & seen:
            break
        seen |= kinds
    else:
        return True
    first = schemas[0].get("properties")
    return isinstance(first, dict) and any(_tells_apart(name, schemas) for name in first)


def _tells_apart(name: str, schemas: list[Any]) -> bool:
    """Whether all require a property ``name``, each with texts of its own."""
    seen: set[str] = set()
    for schema in schemas:
        properties, required = schema.get("properties"), schema.get("required")
        if schema.get("type") != "object" or not isinstance(properties, dict):
            return False
        tag = properties.get(name)
        if not isinstance(tag, dict) or not isinstance(required, list) or name not in required:
            return False
        values = [tag["const"]] if "const" in tag else tag.get("enum")
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            return False
        if not values or seen.intersection(values):
            return False
        seen.update(values)
    return True


def _types(schema: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The types it names, all of them where it names none; None for what is no type."""
    named = schema.get("type", list(_BY_TYPE))
    kinds = tuple(named) if isinstance(named, list) else (named,)
    known = all(isinstance(kind, str) and kind in _BY_TYPE for kind in kinds)
    return kinds if kinds and known else None


def _fits(value: object, kinds: tuple[str, ...]) -> bool:
    match value:
        case bool():
            return "boolean" in kinds
        case int():
            return "integer" in kinds or "number" in kinds
        case float():
            return "number" in kinds
        case str():
            return "string" in kinds
        case None:
            return "null" in kinds
        case list():
            return "array" in kinds
    return "object" in kinds


def _inner_schemas(schema: Mapping[str, Any]) -> Iterator[object]:
    for name in ("$defs", "definitions", "properties"):
        group = schema.get(name, {})
        yield from group.values() if isinstance(group, dict) else [group]
    for name in ("prefixItems", "anyOf", "oneOf", "allOf"):
        group = schema.get(name, [])
        yield from group if isinstance(group, list) else [group]
    for name in ("items", "additionalProperties"):
        # False closes an array or an object; it is no schema to be met.
        if schema.get(name, False) is not False:
            yield schema[name]
