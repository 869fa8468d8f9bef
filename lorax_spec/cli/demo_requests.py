"""What the demo asks: every way to draft, on prompts that the model was not trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lorax_spec import embedded

_OFF = {"method": "none"}

_ARGUMENT = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "optional": {"type": "boolean"}},
    "required": ["name", "optional"],
}
_FUNCTION = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "arguments": {"type": "array", "items": _ARGUMENT, "minItems": 3, "maxItems": 3},
        "returns": {"enum": ["bool", "int", "list", "str", None]},
    },
    "required": ["name", "arguments", "returns"],
}


@dataclass(frozen=True)
class Case:
    """One request; ``speculation`` is what it is asked with when speculation is on."""

    name: str
    prompt: str
    adapter_id: str | None = None
    speculation: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)

    def options(self, *, speculate: bool) -> dict[str, Any]:
        """Keyword arguments of ``generate``."""
        return {
            "prompt": self.prompt,
            "adapter_id": self.adapter_id,
            "speculation": self.speculation if speculate else _OFF,
            "max_new_tokens": 160,
            **self.parameters,
        }


def cases() -> list[Case]:
    """Base model, Medusa and Hydra heads, LoRA, both in one adapter, a LoRA paired with heads, and
    an answer that follows a JSON schema."""
    held_out = embedded.workloads()
    rename = [item["prompt"] for item in held_out["rename"]]
    edit = held_out["edit"][23]
    lookup = {"method": "prompt_lookup"}
    sampling = {"temperature": 0.8, "seed": 7}
    schema = {"response_format": {"type": "json_schema", "schema": _FUNCTION}}
    return [
        Case("base, prompt lookup", rename[5], speculation=lookup),
        Case("base, prompt lookup, sampled", rename[20], speculation=lookup, parameters=sampling),
        Case("base, Medusa heads", rename[24], "demo/medusa", {"method": "medusa"}),
        Case("base, Hydra + prompt lookup", edit["prompt"], "demo/hydra", parameters=sampling),
        Case("LoRA pirate", rename[22], "demo/pirate", lookup),
        Case("LoRA pirate + its heads", rename[28], "demo/pirate", _paired("pirate-medusa")),
        Case("LoRA tests with Medusa", held_out["tests"][0]["prompt"], "demo/tests-medusa"),
        Case("base, JSON schema", "The function parse_date as JSON: ", parameters=schema),
    ]


def _paired(heads: str) -> dict[str, Any]:
    return {"method": "medusa", "medusa_adapter_id": f"demo/{heads}"}
