"""Small and wide models side by side, in float64 where they have to be equal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm


def _exact_norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    """transformers' own computes in float32, whatever it is given."""
    variance = x.pow(2).mean(-1, keepdim=True)
    normed: torch.Tensor = self.weight * x * torch.rsqrt(variance + self.variance_epsilon)
    return normed


@contextmanager
def float64() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaRMSNorm, "forward", _exact_norm)
        yield


def load(folder: Path, dtype: torch.dtype = torch.float64) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@torch.inference_mode()
def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = model(ids).logits.double()
    return found


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest one, as a share of the largest value."""
    return float((one - other).abs().max() / one.abs().max())


@torch.inference_mode()
def medusa_logits(
    model: Any, tensors: Mapping[str, torch.Tensor], ids: torch.Tensor
) -> list[torch.Tensor]:
    """Every head's, by the paper's formula, from the last hidden states of ``ids``."""
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    found = []
    for head in range(1 + max(int(name.split(".")[0]) for name in wide)):
        x, layer = _hidden(model, ids), 0
        while (weight := wide.get(f"{head}.{layer}.linear.weight")) is not None:
            x = x + F.silu(F.linear(x, weight, wide[f"{head}.{layer}.linear.bias"]))
            layer += 1
        own = wide.get(f"{head}.{layer}.weight")
        found.append(model.lm_head(x) if own is None else F.linear(x, own))
    return found


@torch.inference_mode()
def hydra_logits(
    model: Any, tensors: Mapping[str, torch.Tensor], ids: torch.Tensor
) -> list[torch.Tensor]:
    """Every head's, for the first row of ``ids`` [1, n] and the tokens after it."""
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    hidden, embedded = _hidden(model, ids)[0, 0], model.model.embed_tokens(ids[0, 1:])
    found = []
    for head in range(len(wide) // 4):
        part = f"hydra.{head}"
        x = torch.cat([hidden, embedded[: head + 1].flatten()])
        inner = F.silu(F.linear(x, wide[f"{part}.in.weight"], wide[f"{part}.in.bias"]))
        moved = F.linear(inner, wide[f"{part}.out.weight"], wide[f"{part}.out.bias"])
        found.append(model.lm_head(hidden + moved))
    return found


def _hidden(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The lm head's inputs."""
    states: torch.Tensor = model.model(ids).last_hidden_state
    return states
