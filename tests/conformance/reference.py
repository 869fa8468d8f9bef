"""What transformers and peft generate, and what counts as agreeing with them.

Products over many rows round otherwise than products over one, so two candidates closer than that
rounding may swap (promise P1).  A difference is forgiven only where the reference's own two best
candidates lie within TIE of one another, and the number of those is asserted too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

TIE = 1e-4


@dataclass
class Reference:
    """Greedy continuations by transformers' own ``generate``, float32, one prompt at a time."""

    model: PreTrainedModel
    eos: tuple[int, ...]
    _known: dict[tuple[tuple[int, ...], int], list[int]] = field(default_factory=dict)

    @torch.inference_mode()
    def greedy(self, prompt: tuple[int, ...], count: int) -> list[int]:
        key = (prompt, count)
        if key not in self._known:
            output = self.model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                max_new_tokens=count,
                do_sample=False,
                eos_token_id=list(self.eos),
                pad_token_id=0,
            )
            self._known[key] = output[0, len(prompt) :].tolist()
        return self._known[key]

    @torch.inference_mode()
    def gap(self, tokens: list[int]) -> float:
        """Distance of the two best logits after ``tokens``."""
        best = self.model(torch.tensor([tokens])).logits[0, -1].topk(2).values
        return float(best[0] - best[1])


def load_reference(base: Path, adapter: Path | None, eos: tuple[int, ...]) -> Reference:
    """The base model, or peft's view of it with ``adapter``, in float32."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    return Reference(model.eval(), eos)


def first_difference(expected: list[int], actual: list[int]) -> int | None:
    """Index of the first token that differs; None where all are equal."""
    for index, (e, a) in enumerate(zip(expected, actual, strict=False)):
        if e != a:
            return index
    return None if len(expected) == len(actual) else min(len(expected), len(actual))


def assert_agrees(
    reference: Reference, prompt: tuple[int, ...], count: int, actual: list[int]
) -> int:
    """Fail unless ``actual`` is the reference's text; returns 1 for a forgiven tie, else 0."""
    expected = reference.greedy(prompt, count)
    at = first_difference(expected, actual)
    if at is None:
        return 0
    gap = reference.gap([*prompt, *expected[:at]])
    assert gap <= TIE, (
        f"token {at} of {expected} differs in {actual}, and its two best logits are {gap} apart"
    )
    return 1
