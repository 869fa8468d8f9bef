"""Adapters of every form that peft writes, and what peft computes with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from lorax_spec.adapters.folder import read_folder
from lorax_spec.adapters.shape import ModelShape, shape_of
from lorax_spec.adapters.weights import LoraWeights
from lorax_spec.engine.batch import Batch
from lorax_spec.engine.fused import plain_linears
from lorax_spec.engine.model import LanguageModel
from lorax_spec.engine.packed import pack_linears, shared_inputs
from lorax_spec.engine.plain_ops import plain_ops
from lorax_spec.engine.scheduler import Scheduled
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.speculation.tree import EMPTY
from tests.engine.sequences import sequence

NewModel = Callable[[], PreTrainedModel]


class Served:
    """A model as the engine has it; ``logits`` runs many prompts in one pass."""

    def __init__(self, new_model: NewModel) -> None:
        model = new_model()
        turned = plain_linears(model)
        pack_linears(model, shared_inputs(model))
        self.shape: ModelShape = shape_of(model, "", turned=turned)
        self.model = LanguageModel(model, plain_ops(exact=True, row_floor=8))
        self.model.allocate_cache(64)

    def read(self, folder: Path) -> LoraWeights | None:
        return read_folder(folder, self.shape, torch.float32).lora

    def batch(
        self, cases: Sequence[tuple[list[int], LoraWeights | None]], *, all_rows: bool = True
    ) -> Batch:
        plan = []
        for number, (tokens, lora) in enumerate(cases):
            one = sequence(tokens, number=number, wants_prefill=all_rows)
            one.lora = lora
            blocks = -(-len(tokens) // BLOCK_SIZE)
            one.blocks = list(range(1 + number * blocks, 1 + (number + 1) * blocks))
            plan.append(Scheduled(one, 0, len(tokens), EMPTY))
        return self.model.lay_out(plan)

    def logits(self, cases: Sequence[tuple[list[int], LoraWeights | None]]) -> list[torch.Tensor]:
        """Of every case float32 [tokens, vocabulary]; prompts are equally long."""
        batch = self.batch(cases)
        _, logits = self.model.forward(batch)
        length = len(cases[0][0])
        return list(logits[: length * len(cases)].clone().split(length))


def tuned(model: PreTrainedModel, seed: int = 0, **options: Any) -> PeftModel:
    """Every trained parameter is random, about as large as a training leaves it."""
    config = LoraConfig(task_type="CAUSAL_LM", **({"r": 8, "lora_alpha": 16} | options))
    torch.manual_seed(seed)
    wrapped = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if not parameter.requires_grad:
                continue
            noise = torch.randn_like(parameter)
            if "lora_" in name and "magnitude" not in name:
                parameter.copy_(noise * 0.3 * parameter.shape[-1] ** -0.5)
            else:
                parameter += noise * 0.1 * parameter.std().clamp(min=0.1)
    return wrapped


@torch.no_grad()
def logits_by_peft(model: PeftModel, tokens: list[int]) -> torch.Tensor:
    found: torch.Tensor = model(torch.tensor([tokens])).logits[0]
    return found
