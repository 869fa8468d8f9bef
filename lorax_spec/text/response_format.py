"""What a ``response_format`` must be, as far as that can be said without the model."""

from __future__ import annotations

import json

from lorax_spec.errors import InvalidArgument
from lorax_spec.text.json_schema import check_schema
from lorax_spec.types import ResponseFormat

FIELD = "parameters.response_format"
TYPES = ("text", "json_object", "json_schema", "regex", "choice")
#: Characters of a schema, an expression or a list of choices.
MAX_CHARACTERS = 2**16
MAX_CHOICES = 1000


def check_response_format(wanted: ResponseFormat) -> None:
    """``json_object`` may have a schema, as in LoRAX, and means it then.

    Raises InvalidArgument naming the field.
    """
    if wanted.type not in TYPES:
        raise _invalid(f"has a type {wanted.type!r}, not one of {', '.join(TYPES)}")
    if len(wanted.schema) > MAX_CHARACTERS:
        raise _invalid(f"takes at most {MAX_CHARACTERS} characters of schema")
    if wanted.type == "text":
        return
    if not wanted.schema:
        if wanted.type != "json_object":
            raise _invalid(f"of type {wanted.type} needs a schema")
    elif wanted.type == "choice":
        _check_choices(_parsed(wanted))
    elif wanted.type != "regex":
        problem = check_schema(_parsed(wanted))
        if problem is not None:
            raise _invalid(problem)


def _parsed(wanted: ResponseFormat) -> object:
    try:
        value: object = json.loads(wanted.schema)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"of type {wanted.type} has a schema that is not JSON: {error}") from error
    return value


def _check_choices(choices: object) -> None:
    if (
        not isinstance(choices, list)
        or not 0 < len(choices) <= MAX_CHOICES
        or not all(isinstance(text, str) and text for text in choices)
    ):
        raise _invalid(f"of type choice needs a JSON list of 1 to {MAX_CHOICES} non-empty strings")


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument(f"`response_format` {problem}", FIELD)
