"""Train the draft model: a Llama of a sixth of the base's size, with the base's tokenizer.

It reads what the base reads, and learns the next token by plain cross entropy.

    python -m lorax_spec.embedded.recipe.draft build/embedded --tokens 10e6
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AttentionInterface, GenerationConfig, LlamaConfig, LlamaForCausalLM

from lorax_spec import embedded
from lorax_spec.embedded.recipe.dataset import Tokens
from lorax_spec.embedded.recipe.export import new_folder
from lorax_spec.embedded.recipe.optimizer import MasterOptimizer
from lorax_spec.embedded.recipe.pretrain import (
    LONG,
    LONG_FROM,
    MIX,
    SHORT,
    TOKENS_PER_STEP,
    JointModel,
    Sampler,
    base_config,
    explicit_causal_attention,
    held_out_losses,
    rate,
)

REPORT_STEPS = 100


def draft_config() -> LlamaConfig:
    """0.9M parameters, more than half of them the embeddings; the base's tokens and context."""
    config = base_config()
    config.hidden_size = 128
    config.intermediate_size = 352
    config.num_hidden_layers = 2
    config.num_attention_heads = 4
    config.num_key_value_heads = 2
    return config


def train_draft(folder: Path, budget: int, seed: int, compiled: bool = True) -> LlamaForCausalLM:
    """Train on ``budget`` tokens of ``folder/tokens.npz``; the model comes back in float32."""
    torch.manual_seed(seed)
    splits: dict[str, Tokens] = dict(np.load(folder / "tokens.npz"))
    AttentionInterface.register("explicit_causal", explicit_causal_attention)
    config = draft_config()
    config._attn_implementation = "explicit_causal"
    model = JointModel(config, heads=0).bfloat16()
    optimizer = MasterOptimizer(model, lambda name, p: p.dim() == 2 and "embed" not in name)
    sampler = Sampler(splits, MIX, seed + 1)
    train: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = (
        torch.compile(model, dynamic=False) if compiled else model
    )
    started, smoothed = time.monotonic(), 0.0
    steps = budget // TOKENS_PER_STEP
    for step in range(1, steps + 1):
        length = SHORT if step < LONG_FROM * steps else LONG
        loss, _ = train(sampler.batch(TOKENS_PER_STEP // length, length))
        loss.backward()
        optimizer.step(rate((step - 1) / steps, step - 1))
        smoothed = loss.item() if step == 1 else 0.98 * smoothed + 0.02 * loss.item()
        if step % REPORT_STEPS == 0 or step == steps:
            done = step * TOKENS_PER_STEP
            speed = done / (time.monotonic() - started)
            print(f"step {step} tokens {done:,} loss {smoothed:.3f} tok/s {speed:.0f}", flush=True)
    model.float()
    model.load_state_dict(optimizer.masters(), strict=False)
    for name in (name for name in splits if name.startswith("held_out")):
        print(f"  {name} {held_out_losses(model, splits[name])[0]:.3f}", flush=True)
    return model.base


def export_draft(model: LlamaForCausalLM, target: Path) -> None:
    """Write the model in bfloat16; its tokenizer is the base's."""
    with new_folder(target) as folder:
        model.to(torch.bfloat16).save_pretrained(folder)
        GenerationConfig(eos_token_id=[2, 0], pad_token_id=3).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with tokens.npz")
    parser.add_argument("--output", type=Path, default=embedded.path() / "draft")
    parser.add_argument("--tokens", type=float, default=10e6)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--eager", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = train_draft(
        arguments.folder, int(arguments.tokens), arguments.seed, not arguments.eager
    )
    export_draft(model, arguments.output)


if __name__ == "__main__":
    main()
