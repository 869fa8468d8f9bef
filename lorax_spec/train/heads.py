"""Medusa heads as a module, and the folders they are kept in.

Two layouts are in use.  In v2 a head is a block ``x + SiLU(W x + b)`` followed by the base model's
lm head; in v1 each head brings an lm head of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from lorax_spec.errors import AdapterMismatch

WEIGHTS = "medusa_lm_head.safetensors"


class MedusaHeads(nn.Module):
    """``num_heads`` heads of one block each; head k guesses the token k + 2 places ahead.

    The parameters stay float32 and are cast to the dtype of what comes in, so that small updates
    are not rounded away.  A new head passes its input through unchanged.
    """

    reads_tokens = False

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.blocks = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(num_heads))
        self.lm_heads: nn.ParameterList | None = None
        for parameter in self.blocks.parameters():
            nn.init.zeros_(parameter)

    def __len__(self) -> int:
        return len(self.blocks)

    def add_lm_heads(self, vocabulary: torch.Tensor) -> None:
        """Give every head its own copy of ``vocabulary`` [vocab, hidden]: layout v1."""
        copies = [nn.Parameter(vocabulary.detach().float().clone()) for _ in self.blocks]
        self.lm_heads = nn.ParameterList(copies)

    def block(self, head: int) -> nn.Linear:
        block = self.blocks[head]
        assert isinstance(block, nn.Linear)
        return block

    def logits(
        self,
        head: int,
        hidden: torch.Tensor,
        lm_head: nn.Module,
        embedded: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits [..., vocab] of one head from last hidden states [..., hidden]; these heads do
        not look at the ``embedded`` tokens in between."""
        block, dtype = self.block(head), hidden.dtype
        moved = F.silu(F.linear(hidden, block.weight.to(dtype), block.bias.to(dtype)))
        if self.lm_heads is None:
            logits: torch.Tensor = lm_head(hidden + moved)
            return logits
        return F.linear(hidden + moved, self.lm_heads[head].to(dtype))


def save_heads(heads: MedusaHeads, folder: Path, base_id: str) -> None:
    """Write ``config.json`` and bfloat16 safetensors, v1 where the heads have own lm heads."""
    tensors: dict[str, torch.Tensor] = {}
    for k in range(len(heads)):
        tensors[f"{k}.0.linear.weight"] = heads.block(k).weight
        tensors[f"{k}.0.linear.bias"] = heads.block(k).bias
        if heads.lm_heads is not None:
            tensors[f"{k}.1.weight"] = heads.lm_heads[k]
    config = {
        "base_model_name_or_path": base_id,
        "medusa_num_heads": len(heads),
        "medusa_num_layers": 1,
        "version": "2" if heads.lm_heads is None else "1",
    }
    folder.mkdir(parents=True, exist_ok=True)
    stored = {n: t.detach().to("cpu", torch.bfloat16).contiguous() for n, t in tensors.items()}
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_heads(folder: Path, hidden_size: int, num_heads: int | None = None) -> MedusaHeads:
    """Read heads; with ``num_heads`` the first so many, and fresh ones where the folder has fewer.

    Raises AdapterMismatch where the tensors are not one-block heads of ``hidden_size``.
    """
    tensors = load_file(folder / WEIGHTS)
    stored = sum(name.endswith(".0.linear.weight") for name in tensors)
    heads = MedusaHeads(hidden_size, num_heads or stored)
    first = tensors.get("0.0.linear.weight")
    if first is None or first.shape != (hidden_size, hidden_size):
        found = "no head 0" if first is None else f"blocks of shape {tuple(first.shape)}"
        raise AdapterMismatch(f"{folder}: {found}; this model's hidden size is {hidden_size}")
    own = [tensors[f"{k}.1.weight"] for k in range(stored) if f"{k}.1.weight" in tensors]
    if own:
        heads.add_lm_heads(own[0])
    with torch.no_grad():
        for k in range(min(stored, len(heads))):
            heads.block(k).weight.copy_(tensors[f"{k}.0.linear.weight"])
            heads.block(k).bias.copy_(tensors[f"{k}.0.linear.bias"])
            if heads.lm_heads is not None:
                heads.lm_heads[k].copy_(own[k])
    return heads
