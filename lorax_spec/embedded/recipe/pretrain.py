"""Train the embedded base model together with its Medusa heads.

The loss is next-token cross entropy plus a weighted sum over heads that predict further ahead
(multi-token prediction: Gloeckle et al. 2024, arXiv 2404.19737; Medusa-2: Cai et al. 2024,
arXiv 2401.10774).  Heads made for a frozen model this small accept almost nothing; trained along,
they accept two to three times as much for two percent of the base's accuracy.

    python -m lorax_spec.embedded.recipe.pretrain build/embedded --tokens 34e6
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from lorax_spec.embedded.recipe.dataset import CONTEXT, Tokens
from lorax_spec.embedded.recipe.optimizer import MasterOptimizer

HEADS = 4
HEAD_WEIGHT, HEAD_DECAY = 0.3, 0.8
MIX = {"stdlib": 0.37, "packages": 0.20, "topics": 0.02, "chat": 0.41}
TOKENS_PER_STEP = 4096
SHORT, LONG = 512, 1024
LONG_FROM = 0.6
DECAY_FROM = 0.5
WARMUP_STEPS = 60


def base_config() -> LlamaConfig:
    """5.5M parameters; hidden 256 and head size 32 widen exactly to 7B shapes."""
    return LlamaConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=[2, 0],
        pad_token_id=3,
    )


class JointModel(nn.Module):
    """The base and ``heads`` Medusa blocks ``x + SiLU(W x + b)`` on its own lm head."""

    def __init__(self, config: LlamaConfig, heads: int) -> None:
        super().__init__()
        self.base = LlamaForCausalLM(config)
        blocks = [nn.Linear(config.hidden_size, config.hidden_size) for _ in range(heads)]
        for block in blocks:
            nn.init.zeros_(block.weight)
            nn.init.zeros_(block.bias)
        self.heads = nn.ModuleList(blocks)
        for name, parameter in self.base.named_parameters():
            if parameter.dim() == 2:
                fan_in = parameter.shape[1] ** -0.5
                residual = (2 * config.num_hidden_layers) ** -0.5
                writes = "o_proj" in name or "down_proj" in name
                std = 0.02 if "embed" in name else fan_in * (residual if writes else 1.0)
                nn.init.normal_(parameter, std=std)

    def losses(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """Cross entropies of the next token and of each head, from ``ids`` [batch, length + 1]."""
        hidden = self.base.model(ids[:, :-1], use_cache=False).last_hidden_state
        vocabulary = self.base.lm_head.weight
        logits = F.linear(hidden, vocabulary).float().flatten(0, 1)
        losses = [F.cross_entropy(logits, ids[:, 1:].reshape(-1))]
        length = hidden.shape[1]
        for index, head in enumerate(self.heads):
            shift = index + 2
            # Every second position: the heads' share of the lm head halves, the gain stays.
            rows = hidden[:, : length + 1 - shift].reshape(-1, hidden.shape[-1])[::2]
            targets = ids[:, shift:].reshape(-1)[::2]
            logits = F.linear(rows + F.silu(head(rows)), vocabulary).float()
            losses.append(F.cross_entropy(logits, targets))
        return losses

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(training loss, next-token loss)."""
        losses = self.losses(ids)
        ahead = sum(loss * HEAD_DECAY**k for k, loss in enumerate(losses[1:]))
        return losses[0] + HEAD_WEIGHT * ahead, losses[0]


def explicit_causal_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Plain products and a softmax: faster than SDPA's backward pass on a CPU at these lengths."""
    batch, heads, length, size = query.shape
    groups = heads // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1).flatten(0, 1) for x in (key, value))
    mask = torch.full((length, length), -math.inf, dtype=query.dtype).triu(1)
    scores = torch.baddbmm(mask, query.flatten(0, 1) * scaling, key.transpose(1, 2))
    out = torch.bmm(scores.softmax(-1), value).view(batch, heads, length, size)
    return out.transpose(1, 2), None


class Sampler:
    """Seeded windows of ``length + 1`` tokens, each drawn from a split by its share of the mix."""

    def __init__(self, splits: dict[str, Tokens], mix: dict[str, float], seed: int) -> None:
        self._splits = [torch.from_numpy(splits[name].astype(np.int32)) for name in mix]
        self._weights = torch.tensor(list(mix.values()))
        self.generator = torch.Generator().manual_seed(seed)

    def batch(self, rows: int, length: int) -> torch.Tensor:
        picks = torch.multinomial(self._weights, rows, True, generator=self.generator)
        windows = []
        for pick in picks.tolist():
            split = self._splits[pick]
            start = int(torch.randint(0, len(split) - length - 1, (), generator=self.generator))
            windows.append(split[start : start + length + 1])
        return torch.stack(windows).long()


@torch.no_grad()
def held_out_losses(model: JointModel, tokens: Tokens, windows: int = 16) -> list[float]:
    """Mean loss of the next token and of each head on evenly spaced held-out windows."""
    starts = np.linspace(0, len(tokens) - SHORT - 2, windows).astype(int)
    ids = torch.stack(
        [torch.from_numpy(tokens[s : s + SHORT + 1].astype(np.int64)) for s in starts]
    )
    totals = [model.losses(chunk) for chunk in ids.split(4)]
    return [float(torch.stack(column).mean()) for column in zip(*totals, strict=True)]


def rate(fraction: float, step: int) -> float:
    """Warm up, hold, then fall linearly to zero over the last half."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm * min(1.0, max(0.0, (1 - fraction) / (1 - DECAY_FROM)))


def pretrain(folder: Path, budget: int, seed: int, compiled: bool = True) -> None:
    """Train on ``budget`` tokens, resuming from ``folder/joint.pt`` where one is found."""
    torch.manual_seed(seed)
    splits: dict[str, Tokens] = dict(np.load(folder / "tokens.npz"))
    AttentionInterface.register("explicit_causal", explicit_causal_attention)
    config = base_config()
    config._attn_implementation = "explicit_causal"
    model = JointModel(config, HEADS).bfloat16()
    optimizer = MasterOptimizer(
        model, lambda name, p: p.dim() == 2 and "embed" not in name and "heads" not in name
    )
    sampler = Sampler(splits, MIX, seed + 1)
    checkpoint, done, step = folder / "joint.pt", 0, 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        sampler.generator.set_state(state["generator"])
        done, step = state["tokens"], state["step"]
        print(f"resumed at {done:,} tokens", flush=True)

    train: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = (
        torch.compile(model, dynamic=False) if compiled else model
    )
    started, seen, smoothed = time.monotonic(), done, 0.0
    while done < budget:
        length = SHORT if done < LONG_FROM * budget else LONG
        loss, next_token = train(sampler.batch(TOKENS_PER_STEP // length, length))
        loss.backward()
        optimizer.step(rate(done / budget, step))
        done, step = done + TOKENS_PER_STEP, step + 1
        smoothed = next_token.item() if step == 1 else 0.98 * smoothed + 0.02 * next_token.item()
        if step % 100 == 0:
            speed = (done - seen) / (time.monotonic() - started)
            print(f"step {step} tokens {done:,} loss {smoothed:.3f} tok/s {speed:.0f}", flush=True)
        if step % 500 == 0 or done >= budget:
            for name in ("stdlib", "chat"):
                losses = held_out_losses(model, splits[f"held_out_{name}"])
                print(f"  held out {name}", " ".join(f"{x:.3f}" for x in losses), flush=True)
            temporary = checkpoint.with_suffix(".tmp")
            torch.save(
                {
                    "optimizer": optimizer.state_dict(),
                    "generator": sampler.generator.get_state(),
                    "tokens": done,
                    "step": step,
                },
                temporary,
            )
            temporary.rename(checkpoint)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=float, default=34e6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eager", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pretrain(arguments.folder, int(arguments.tokens), arguments.seed, not arguments.eager)
