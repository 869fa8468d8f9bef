"""Many adapters of one's own: the embedded ones, each a little different."""

from __future__ import annotations

import json
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from lorax_spec import embedded
from lorax_spec.bench.statistics import Floats

PARENTS = ("pirate", "tests")
RANK = 4
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
#: Of the noise, by the spread of the tensor that it is added to.
_NOISE = 0.05


def make_zoo(root: Path, count: int, seed: int) -> list[str]:
    """``count`` distinct LoRA adapters of ``RANK`` in folders of ``root``; returns their ids.

    Their tensors are the first ranks of ``PARENTS`` in turn, with normal noise drawn by ``seed``.
    """
    folders = [embedded.path() / "adapters" / name for name in PARENTS]
    parents = [(_cut(load_file(one / _WEIGHTS)), _config(one / _CONFIG)) for one in folders]
    draw = torch.Generator().manual_seed(seed)
    ids = [f"zoo-{number:04d}" for number in range(count)]
    for adapter_id, (tensors, config) in zip(ids, islice(cycle(parents), count), strict=True):
        folder = root / adapter_id
        folder.mkdir(parents=True)
        (folder / _CONFIG).write_text(config)
        changed = {name: _stirred(tensor, draw) for name, tensor in tensors.items()}
        save_file(changed, folder / _WEIGHTS)
    return ids


def size(root: Path) -> int:
    """Bytes of all files below ``root``."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def zipf(count: int, exponent: float) -> Floats:
    """How likely each of ``count`` is to be asked for, [count]: the k-th as 1 / k^exponent
    (Zipf, 1949)."""
    weights: Floats = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    weights /= weights.sum()
    return weights


def _config(path: Path) -> str:
    """Of the parent's scale, which is alpha by rank."""
    config = json.loads(path.read_text())
    alpha = config["lora_alpha"] * RANK / config["r"]
    return json.dumps(config | {"r": RANK, "lora_alpha": alpha})


def _cut(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A is [rank, in], B [out, rank]."""
    return {
        name: (tensor[:RANK] if "lora_A" in name else tensor[:, :RANK]).clone()
        for name, tensor in tensors.items()
    }


def _stirred(tensor: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    noise = torch.randn(tensor.shape, generator=draw) * _NOISE * tensor.float().std()
    return (tensor + noise).to(tensor.dtype)
