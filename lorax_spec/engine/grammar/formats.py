"""From what a caller asks for to a compiled grammar."""

from __future__ import annotations

import json
import re

import xgrammar

from lorax_spec.errors import InvalidArgument
from lorax_spec.types import ResponseFormat

FIELD = "parameters.response_format"
#: Where and when xgrammar's own source found a fault, in front of its messages.
_ORIGIN = re.compile(r"^\[[\d:]+\] \S+: ")
#: The characters of strings: in rules of their own where a length is bounded, else in one rule.
_BOUNDED = re.compile(r'^(\w+ ::= )\(\(\[\^\\"\\\\\\r\\n\]\)\)$', re.MULTILINE)
_LOOSE = r'basic_string_sub ::= (("\"") | ([^\0-\x1f\"\\\r\n]'
_STRICT = r'basic_string_sub ::= (("\"") | ([^\0-\x1f\"\\\uD800-\uDFFF]'
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|.)", re.DOTALL)
_CHARACTER = r"[^\0-\x1f\"\\\uD800-\uDFFF]"


def compile_format(
    compiler: xgrammar.GrammarCompiler, wanted: ResponseFormat
) -> xgrammar.CompiledGrammar:
    """JSON is written as ``json.dumps`` does: one space after a comma and a colon, no other
    whitespace.  So the model cannot lose itself in blanks, and fixed keys are known in advance.

    Raises:
        InvalidArgument: the schema, expression or list is wrong, or says what cannot be enforced.
    """
    try:
        match wanted.type:
            case "json_object" | "json_schema":
                schema = wanted.schema or '{"type": "object"}'
                return compiler.compile_grammar(_json_grammar(schema))
            case "regex":
                return compiler.compile_regex(wanted.schema)
            case "choice":
                return compiler.compile_grammar(_one_of(json.loads(wanted.schema)))
    except (RuntimeError, ValueError, TypeError) as error:
        problem = _ORIGIN.sub("", str(error)).strip()
        raise InvalidArgument(f"`response_format` does not compile: {problem}", FIELD) from error
    raise InvalidArgument(f"`response_format` has an unknown type {wanted.type!r}", FIELD)


def _json_grammar(schema: str) -> str:
    """An EBNF grammar of a schema's texts.

    In strings of bounded length xgrammar 0.2.8 permits control characters, which JSON forbids,
    and in all strings halves of surrogate pairs, which UTF-8 forbids.  It prints a character below
    256 as two hexadecimal digits, but reads as many as follow.
    """
    grammar = str(xgrammar.Grammar.from_json_schema(schema, any_whitespace=False))
    grammar = _BOUNDED.sub(lambda rule: rule[1] + _CHARACTER, grammar).replace(_LOOSE, _STRICT)
    return _ESCAPE.sub(lambda found: rf"\u00{found[1]}" if found[1] else found[0], grammar)


def _one_of(choices: list[str]) -> str:
    """An EBNF grammar of just these texts; its strings are quoted like JSON's."""
    return "root ::= " + " | ".join(json.dumps(text, ensure_ascii=False) for text in choices)
