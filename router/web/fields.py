"""Parts of requests that LoRAX's routes and OpenAI's have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lorax_spec.errors import InvalidArgument
from lorax_spec.types import Method, ResponseFormat, Speculation

_METHODS = Literal["auto", "none", "medusa", "prompt_lookup", "draft_model", "lookahead"]


class Strict(BaseModel):
    """A field of another type, or of another name, is an error and not silence."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SpeculationField(Strict):
    """Who drafts for this request, and how much.  No choice changes the text."""

    method: _METHODS = "auto"
    num_tokens: int | None = Field(
        default=None,
        description="Exactly so many tokens a step, 0 to 63; absent: the controller decides.",
    )
    medusa_adapter_id: str | None = Field(
        default=None, description="An adapter whose heads draft, beside the request's own adapter."
    )
    reference: str | None = Field(
        default=None,
        description="Text that prompt lookup searches as well, such as an edited document.",
    )

    def speculation(self) -> Speculation:
        return Speculation(
            Method(self.method), self.num_tokens, self.medusa_adapter_id, self.reference
        )


def speculation(field: SpeculationField | None) -> Speculation:
    return Speculation() if field is None else field.speculation()


def response_format(kind: str, schema: Any) -> ResponseFormat:
    """``schema`` is JSON, or a string that holds it; an expression for the type regex."""
    text = schema if isinstance(schema, str) else "" if schema is None else json.dumps(schema)
    return ResponseFormat(kind, text)


def logit_bias(field: Mapping[str, float] | None) -> dict[int, float]:
    """JSON has token ids as text.  Raises InvalidArgument for a name that is no number."""
    found = {}
    for name, bias in (field or {}).items():
        if not (name.isascii() and name.isdigit() and len(name) < 10):
            problem = f"`logit_bias` names {name[:20]!r}, which is no token id"
            raise InvalidArgument(problem, "parameters.logit_bias")
        found[int(name)] = bias
    return found
