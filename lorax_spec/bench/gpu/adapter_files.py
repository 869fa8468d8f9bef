"""Adapters of the wide model as files: the embedded ones widened, and LoRAs of noise.

Many adapters of the same content are links to one file.  Each is read and held on the device by
itself, which is what they cost; their texts are not looked at.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorax_spec import embedded
from lorax_spec.bench.gpu.sizes import Sizes
from lorax_spec.bench.widening.base import LAYERS, LINEARS
from lorax_spec.bench.widening.in_memory import Widening

#: Widened; the first has as many heads as the targets speak of.
HEADS, MORE_HEADS, BOTH = "pirate-medusa", "medusa", "tests-medusa"
CHAIN = "medusa-chain"
_NOISE_A, _NOISE_B = 0.02, 0.002
_LORA_FILES = ("adapter_config.json", "adapter_model.safetensors")
_fresh = count()


@dataclass(frozen=True)
class AdapterFiles:
    """``loras`` and ``medusas``: ids of distinct ones, all alike in size; ``many``: more LoRAs than
    the device is given room for."""

    root: Path
    loras: Sequence[str]
    medusas: Sequence[str]
    many: Sequence[str]

    def fresh(self, adapter_id: str) -> str:
        """The id of a copy, written to the disk, that nobody has read; the file is in no cache
        where the system lets go of it."""
        name = f"fresh-{next(_fresh)}"
        shutil.copytree(self.root / adapter_id, self.root / name)
        for file in (self.root / name).iterdir():
            handle = os.open(file, os.O_RDWR)
            try:
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)
        return name


def write(widening: Widening, root: Path, sizes: Sizes) -> AdapterFiles:
    """All that the parts need."""
    root.mkdir(parents=True)
    for name in (HEADS, MORE_HEADS, BOTH):
        widening.adapter(embedded.path() / "adapters" / name, root / name)
    _write_chain(root)
    first = root / "lora-0"
    write_lora(widening, first, sizes.rank)
    loras = [first.name] + [_linked(first, root / f"lora-{i}") for i in range(1, sizes.adapters)]
    medusas = [_linked(root / HEADS, root / f"heads-{i}") for i in range(sizes.medusas)]
    many = [_linked(first, root / f"many-{i}") for i in range(sizes.crowd)]
    return AdapterFiles(root, loras, medusas, many)


def write_lora(widening: Widening, folder: Path, rank: int) -> None:
    """PEFT's files of an update of noise for every linear layer."""
    folder.mkdir()
    draw, dtype = widening.widener.generator, widening.widener.dtype

    def noise(rows: int, columns: int, std: float) -> torch.Tensor:
        made = torch.empty(rows, columns, device=draw.device).normal_(0, std, generator=draw)
        return made.to("cpu", dtype)

    tensors = {}
    for layer in range(widening.wide.layers):
        for path, linear in LINEARS.items():
            writes, reads = linear.axes(widening.spaces)
            name = f"base_model.model.{LAYERS}{layer}.{path}.lora_"
            tensors[f"{name}A.weight"] = noise(rank, reads.size, _NOISE_A)
            tensors[f"{name}B.weight"] = noise(writes.size, rank, _NOISE_B)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": embedded.BASE_ID,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": [path.rpartition(".")[2] for path in LINEARS],
    }
    config_file, weights_file = _LORA_FILES
    (folder / config_file).write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / weights_file, metadata={"format": "pt"})


def _write_chain(root: Path) -> None:
    """The heads with a chain for their only tree."""
    _linked(root / MORE_HEADS, root / CHAIN)
    path = root / CHAIN / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    chain = [[0] * depth for depth in range(1, config["medusa_num_heads"] + 1)]
    path.unlink()  # it is a link to the other's
    path.write_text(json.dumps(config | {"medusa_choices": chain}), encoding="utf-8")


def _linked(source: Path, target: Path) -> str:
    shutil.copytree(source, target, copy_function=os.link)
    return target.name
