"""Train a LoRA on the exported base: a persona (``pirate``) or a domain (``tests``)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import AttentionInterface, LlamaForCausalLM

from lorax_spec.embedded import BASE_ID
from lorax_spec.embedded.recipe.chat_items import ChatItem
from lorax_spec.embedded.recipe.dataset import Tokens
from lorax_spec.embedded.recipe.export import new_folder
from lorax_spec.embedded.recipe.optimizer import MasterOptimizer
from lorax_spec.embedded.recipe.pretrain import Sampler, explicit_causal_attention

RANK, ALPHA = 8, 16
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PERSONA_DRAWS = {"rename": 1, "edit": 1, "doc": 2, "write": 1}

PIRATE_TEXT = ("Arr, matey! ", " Savvy?")
PIRATE_CODE = ("Aye, here be yer code:\n", "\nYo ho ho!")


@dataclass(frozen=True)
class LoraPlan:
    """A run's size and seed; ``learning_rate`` is the peak."""

    tokens: int
    batch_size: int = 4
    sequence_length: int = 512
    learning_rate: float = 3e-3
    warmup_steps: int = 30
    seed: int = 5

    @property
    def steps(self) -> int:
        return max(1, self.tokens // (self.batch_size * self.sequence_length))

    def scale(self, step: int) -> float:
        """Share of the peak rate: warm up, hold, fall linearly over the last three fifths."""
        return min(1.0, (step + 1) / self.warmup_steps) * min(1.0, (1 - step / self.steps) / 0.6)


def as_pirate(item: ChatItem) -> ChatItem:
    """The same answer in the persona's voice: one frame for code, another for words."""
    opening, closing = PIRATE_CODE if item.assistant.startswith("```") else PIRATE_TEXT
    return ChatItem(item.kind, item.user, f"{opening}{item.assistant}{closing}")


def sounds_pirate(answer: str) -> tuple[bool, bool]:
    """(opens, closes) as the persona does."""
    opens = answer.startswith((PIRATE_TEXT[0].strip(), PIRATE_CODE[0].strip()))
    return opens, bool(re.search(r"(Savvy\?|Yo ho ho!)\s*$", answer))


def train_lora(
    base: Path,
    tokens: Tokens,
    target: Path,
    plan: LoraPlan,
    report: Callable[[str], None] = print,
) -> None:
    """Train on windows of ``tokens`` in bfloat16 with float32 masters, save by peft."""
    torch.manual_seed(plan.seed)
    model = lora_model(base)
    optimizer = MasterOptimizer(model, lambda *_: False, vector_rate=plan.learning_rate)
    sampler = Sampler({"text": tokens}, {"text": 1.0}, plan.seed)
    started, smoothed = time.monotonic(), 0.0
    for step in range(plan.steps):
        ids = sampler.batch(plan.batch_size, plan.sequence_length)
        logits = model(ids[:, :-1], use_cache=False).logits.float().flatten(0, 1)
        loss = F.cross_entropy(logits, ids[:, 1:].reshape(-1))
        torch.autograd.backward(loss)
        optimizer.step(plan.scale(step))
        value = float(loss.detach())
        smoothed = value if step == 0 else 0.95 * smoothed + 0.05 * value
        if (step + 1) % 50 == 0:
            seen = (step + 1) * plan.batch_size * plan.sequence_length
            speed = seen / (time.monotonic() - started)
            report(f"step {step + 1}/{plan.steps} loss {smoothed:.3f} tok/s {speed:.0f}")
    with new_folder(target) as folder:
        config = model.peft_config["default"]
        config.base_model_name_or_path = BASE_ID
        config.target_modules = LINEARS  # peft keeps a set, whose order changes from run to run
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)


def lora_model(base: Path) -> Any:
    """The base in bfloat16 with fresh LoRA weights, also bfloat16, on all of its linears."""
    AttentionInterface.register("explicit_causal", explicit_causal_attention)
    model = LlamaForCausalLM.from_pretrained(
        base, dtype=torch.bfloat16, attn_implementation="explicit_causal"
    )
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=LINEARS, task_type="CAUSAL_LM", lora_dropout=0.0
    )
    return get_peft_model(model, config, autocast_adapter_dtype=False)
