"""transformers' ``generate`` as one side of a comparison, as its users call it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from lorax_spec.bench.pairs import Run, timed
from lorax_spec.bench.workload import Prompt


def load_reference(folder: str | Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model of ``folder``, transformers' own in everything."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@dataclass(frozen=True)
class TransformersSide:
    """Greedy answers, one prompt after the other; ``lookup`` is ``prompt_lookup_num_tokens``."""

    model: Any
    lookup: int | None = None

    def __call__(self, prompts: Sequence[Prompt], /) -> Run:
        inputs = [torch.tensor([prompt.ids]) for prompt in prompts]
        outputs, seconds, cpu_seconds = timed(
            lambda: [
                _generate(self.model, ids, torch.ones_like(ids), prompt.new_tokens, self.lookup)
                for ids, prompt in zip(inputs, prompts, strict=True)
            ]
        )
        answers = (
            tuple(output[0, len(prompt.ids) :].tolist())
            for output, prompt in zip(outputs, prompts, strict=True)
        )
        return Run(tuple(answers), seconds, cpu_seconds)


@dataclass(frozen=True)
class PaddedSide:
    """All prompts in one padded batch: what transformers offers requests that arrive together and
    can wait for the longest of them."""

    model: Any

    def __call__(self, prompts: Sequence[Prompt], /) -> Run:
        width = max(len(prompt.ids) for prompt in prompts)
        gaps = [width - len(prompt.ids) for prompt in prompts]
        pad = self.model.generation_config.pad_token_id or 0
        ids = torch.tensor([[pad] * g + [*p.ids] for g, p in zip(gaps, prompts, strict=True)])
        mask = torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps])
        longest = max(prompt.new_tokens for prompt in prompts)
        output, seconds, cpu_seconds = timed(lambda: _generate(self.model, ids, mask, longest))
        answers = (
            self._cut(row, prompt.new_tokens)
            for row, prompt in zip(output[:, width:].tolist(), prompts, strict=True)
        )
        return Run(tuple(answers), seconds, cpu_seconds)

    def _cut(self, tokens: list[int], most: int) -> tuple[int, ...]:
        """Up to and with the first end token; what follows is padding."""
        ends = self.model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends)
        end = next((i + 1 for i, token in enumerate(tokens) if token in ends), most)
        return tuple(tokens[: min(end, most)])


@torch.inference_mode()
def _generate(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, new_tokens: int, lookup: int | None = None
) -> torch.Tensor:
    options = {} if lookup is None else {"prompt_lookup_num_tokens": lookup}
    output: torch.Tensor = model.generate(
        ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, **options
    )
    return output
