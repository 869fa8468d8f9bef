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
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
#: Of the noise, by the spread of the tensor that it is added to.
_NOISE = 0.05


def make_zoo(root: Path, count: int, seed: int) -> list[str]:
    """``count`` distinct LoRA adapters in folders of ``root``, in float16; returns their ids.

    Their tensors are those of ``PARENTS`` in turn, with normal noise drawn by ``seed``.
    """
    folders = [embedded.path() / "adapters" / name for name in PARENTS]
    parents = [(load_file(one / _WEIGHTS), (one / _CONFIG).read_text()) for one in folders]
    draw = torch.Generator().manual_seed(seed)
    ids = [f"zoo-{number:04d}" for number in range(count)]
    for adapter_id, (tensors, config) in zip(ids, islice(cycle(parents), count), strict=True):
        folder = root / adapter_id
        folder.mkdir(parents=True)
        (folder / _CONFIG).write_text(json.dumps(json.loads(config)))
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


def _stirred(tensor: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    noise = torch.randn(tensor.shape, generator=draw) * _NOISE * tensor.float().std()
    return (tensor + noise).to(torch.float16)
