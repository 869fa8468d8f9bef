"""Formats of all kinds, and walks through what they permit."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import jsonschema
import torch
import xgrammar
from hypothesis import strategies as st

from lorax_spec import embedded
from lorax_spec.engine.grammar.constraint import Constraint
from lorax_spec.engine.grammar.formats import compile_format
from lorax_spec.engine.grammar.vocabulary import Vocabulary, read_vocabulary
from lorax_spec.types import ResponseFormat

CPU = torch.device("cpu")
SIZE = 4096
EOS = frozenset({0, 2})


@functools.cache
def vocabulary() -> Vocabulary:
    return read_vocabulary(embedded.path() / "base", SIZE, EOS)


def constraint(wanted: ResponseFormat) -> Constraint:
    """Over the embedded model's tokens."""
    compiler = xgrammar.GrammarCompiler(vocabulary().info, max_threads=1)
    return Constraint(compile_format(compiler, wanted), vocabulary(), CPU)


def satisfies(text: str, wanted: ResponseFormat) -> bool:
    """By others' rules: ``re``, ``json`` and ``jsonschema``."""
    match wanted.type:
        case "regex":
            return re.fullmatch(wanted.schema, text) is not None
        case "choice":
            return text in json.loads(wanted.schema)
    value = json.loads(text)
    if not wanted.schema:
        return isinstance(value, dict)
    jsonschema.Draft202012Validator(json.loads(wanted.schema)).validate(value)
    return True


_names = st.sampled_from(["name", "id", "is_ready", 'quo"te', "back\\slash", "größe", "two words"])
_small = st.integers(0, 4)
_formats = st.sampled_from(
    ["date", "time", "date-time", "duration", "email", "uuid", "ipv4", "ipv6", "hostname", "uri"]
)
_patterns = st.sampled_from(
    [r"^[A-Z]{2}-\d{1,3}$", r"^\S{1,3}$", r"^[^a]{1,2}$", r"^(yes|no|na\.)$", "^.{0,3}$", "^[!-z]$"]
)


@st.composite
def _bounded(draw: st.DrawFn, kind: str, low: str, high: str) -> dict[str, Any]:
    least = draw(_small)
    return {"type": kind, low: least, high: least + draw(_small)}


@st.composite
def _objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(_names, inner, min_size=1, max_size=4))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True))
    return {"type": "object", "properties": properties, "required": required}


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_names, inner, max_size=2),
    max_leaves=4,
)
schemas: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        _bounded("string", "minLength", "maxLength"),
        _bounded("integer", "minimum", "maximum"),
        _bounded("number", "minimum", "maximum"),
        st.fixed_dictionaries({"type": st.just("string"), "pattern": _patterns}),
        st.fixed_dictionaries({"type": st.just("string"), "format": _formats}),
        st.builds(lambda n: {"type": "integer", "multipleOf": n}, st.integers(1, 12)),
        st.just({"type": ["boolean", "null"]}),
        st.builds(lambda v: {"const": v}, _values),
        st.builds(lambda v: {"enum": v}, st.lists(_values, min_size=1, max_size=4)),
    ),
    lambda inner: st.one_of(
        _objects(inner),
        st.builds(
            lambda items, least, more: {
                "type": "array",
                "items": items,
                "minItems": least,
                "maxItems": least + more,
            },
            inner,
            st.integers(0, 2),
            st.integers(0, 2),
        ),
        st.builds(
            lambda first: {"type": "array", "prefixItems": first, "items": False},
            st.lists(inner, min_size=1, max_size=2),
        ),
        st.builds(lambda each: {"anyOf": each}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda values: {"type": "object", "additionalProperties": values, "maxProperties": 2},
            inner,
        ),
    ),
    max_leaves=6,
)
regexes = st.sampled_from(
    [r"[a-z]{2,5}", r"\d{1,3}(\.\d{1,2})?", "(yes|no)( please){0,2}", r"[A-Z]\w{0,6}!", "a*b{1,3}"]
)
choices = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5, unique=True)


def formats() -> st.SearchStrategy[ResponseFormat]:
    return st.one_of(
        st.builds(lambda s: ResponseFormat("json_schema", json.dumps(s)), schemas),
        st.builds(lambda s: ResponseFormat("regex", s), regexes),
        st.builds(lambda s: ResponseFormat("choice", json.dumps(s)), choices),
    )
