"""What the demo asks: every way to draft, on prompts that the model was not trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lorax_spec import embedded

_OFF = {"method": "none"}


@dataclass(frozen=True)
class Case:
    """One request; ``speculation`` is what it is asked with when speculation is on."""

    name: str
    prompt: str
    adapter_id: str | None = None
    speculation: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)

    def options(self, *, speculate: bool) -> dict[str, Any]:
        """Keyword arguments of ``generate``."""
        return {
            "prompt": self.prompt,
            "adapter_id": self.adapter_id,
            "speculation": self.speculation if speculate else _OFF,
            "max_new_tokens": 160,
            **self.sampling,
        }


def cases() -> list[Case]:
    """Base model, Medusa heads, LoRA, both in one adapter, and a LoRA paired with heads."""
    held_out = embedded.workloads()
    rename = [item["prompt"] for item in held_out["rename"]]
    lookup = {"method": "prompt_lookup"}
    sampling = {"temperature": 0.8, "seed": 7}
    return [
        Case("base, prompt lookup", rename[5], speculation=lookup),
        Case("base, prompt lookup, sampled", rename[20], speculation=lookup, sampling=sampling),
        Case("base, Medusa heads", rename[24], "demo/medusa", {"method": "medusa"}),
        Case("LoRA pirate", rename[22], "demo/pirate", lookup),
        Case("LoRA pirate + its heads", rename[28], "demo/pirate", _paired("pirate-medusa")),
        Case("LoRA tests with Medusa", held_out["tests"][0]["prompt"], "demo/tests-medusa"),
    ]


def _paired(heads: str) -> dict[str, Any]:
    return {"method": "medusa", "medusa_adapter_id": f"demo/{heads}"}
