"""Hydra heads as a module, and the folder they are kept in (Ankner et al. 2024, arXiv 2402.05109).

A Hydra head also reads the tokens between the base's last row and its guess.  Head k's input is
``x = concat(h, e(t_0), ..., e(t_k))``: the last hidden state h of the row that token ``t_0`` was
chosen from, and the base's input embeddings of ``t_0`` and of the k tokens drafted after it.  Its
logits are the base's lm head of ``h + W_out SiLU(W_in x + b_in) + b_out``.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from lorax_spec.errors import AdapterMismatch
from lorax_spec.train.heads import MedusaHeads

WEIGHTS = "hydra_heads.safetensors"


class HydraHeads(nn.Module):
    """``num_heads`` heads with an inner layer of ``inner_size``; head k guesses the token k + 2
    places ahead.

    The parameters stay float32 and are cast to the dtype of what comes in.  A new head passes the
    hidden state through unchanged.
    """

    reads_tokens = True

    def __init__(self, hidden_size: int, num_heads: int, inner_size: int) -> None:
        super().__init__()
        self.hidden_size, self.inner_size = hidden_size, inner_size
        self.inner = nn.ModuleList(
            nn.Linear((k + 2) * hidden_size, inner_size) for k in range(num_heads)
        )
        self.outer = nn.ModuleList(nn.Linear(inner_size, hidden_size) for _ in range(num_heads))
        for parameter in self.outer.parameters():
            nn.init.zeros_(parameter)

    def __len__(self) -> int:
        return len(self.inner)

    def layers(self, head: int) -> tuple[nn.Linear, nn.Linear]:
        """The inner and the outer layer of one head."""
        inner, outer = self.inner[head], self.outer[head]
        assert isinstance(inner, nn.Linear)
        assert isinstance(outer, nn.Linear)
        return inner, outer

    def logits(
        self,
        head: int,
        hidden: torch.Tensor,
        lm_head: nn.Module,
        embedded: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits [n, vocab] of one head from last hidden states [n, hidden] and the embeddings
        [n, >= head + 1, hidden] of the tokens from ``t_0`` on."""
        assert embedded is not None
        (inner, outer), dtype = self.layers(head), hidden.dtype
        x = torch.cat([hidden, embedded[:, : head + 1].flatten(1).to(dtype)], dim=1)
        moved = F.silu(F.linear(x, inner.weight.to(dtype), inner.bias.to(dtype)))
        state = hidden + F.linear(moved, outer.weight.to(dtype), outer.bias.to(dtype))
        logits: torch.Tensor = lm_head(state)
        return logits


def from_medusa(heads: MedusaHeads, num_heads: int, inner_size: int) -> HydraHeads:
    """Hydra heads that begin as ``heads``: a Medusa block is an inner layer that reads h alone.

    Raises AdapterMismatch for v1 heads, and for an inner layer smaller than the hidden state.
    """
    hidden_size = heads.hidden_size
    if heads.lm_heads is not None:
        raise AdapterMismatch("heads with lm heads of their own cannot become Hydra heads")
    if inner_size < hidden_size:
        raise AdapterMismatch(
            f"an inner size of {inner_size} has no room for a Medusa block of {hidden_size}"
        )
    made = HydraHeads(hidden_size, num_heads, inner_size)
    with torch.no_grad():
        for k in range(min(num_heads, len(heads))):
            (inner, outer), block = made.layers(k), heads.block(k)
            inner.weight[:hidden_size] = 0.0
            inner.weight[:hidden_size, :hidden_size] = block.weight
            inner.bias[:hidden_size] = block.bias
            outer.weight[:, :hidden_size] = torch.eye(hidden_size)
    return made


def save_hydra(heads: HydraHeads, folder: Path, base_id: str) -> None:
    """Write ``config.json`` and bfloat16 safetensors."""
    tensors: dict[str, torch.Tensor] = {}
    for k in range(len(heads)):
        for name, layer in zip(("in", "out"), heads.layers(k), strict=True):
            tensors[f"hydra.{k}.{name}.weight"] = layer.weight
            tensors[f"hydra.{k}.{name}.bias"] = layer.bias
    config = {
        "base_model_name_or_path": base_id,
        "hydra_inner_size": heads.inner_size,
        "hydra_num_heads": len(heads),
        "version": "1",
    }
    folder.mkdir(parents=True, exist_ok=True)
    stored = {n: t.detach().to("cpu", torch.bfloat16).contiguous() for n, t in tensors.items()}
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_hydra(folder: Path, hidden_size: int, num_heads: int | None = None) -> HydraHeads:
    """Read heads; with ``num_heads`` the first so many, and fresh ones where the folder has fewer.

    Raises AdapterMismatch where the tensors are not Hydra heads over states of ``hidden_size``.
    """
    tensors = load_file(folder / WEIGHTS)
    stored = sum(name.endswith(".in.weight") for name in tensors)
    first = tensors.get("hydra.0.in.weight")
    if first is None or first.shape[1] != 2 * hidden_size:
        found = "no head 0" if first is None else f"a first head over {first.shape[1]} inputs"
        raise AdapterMismatch(f"{folder}: {found}; this model's hidden size is {hidden_size}")
    heads = HydraHeads(hidden_size, num_heads or stored, first.shape[0])
    with torch.no_grad():
        for k in range(min(stored, len(heads))):
            for name, layer in zip(("in", "out"), heads.layers(k), strict=True):
                layer.weight.copy_(tensors[f"hydra.{k}.{name}.weight"])
                layer.bias.copy_(tensors[f"hydra.{k}.{name}.bias"])
    return heads
