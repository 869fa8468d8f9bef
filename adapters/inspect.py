"""What an adapter folder holds and what is wrong with it, for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorax_spec.adapters import folder, medusa
from lorax_spec.adapters.shape import ModelShape
from lorax_spec.errors import AdapterMismatch


@dataclass(frozen=True)
class Inspection:
    """``kind`` is empty where no config can be read; ``bytes`` is what the tensors take on disk.

    ``rank`` is 0 without a LoRA; ``medusa_heads``, ``medusa_layers`` and ``medusa_version`` are 0
    without Medusa heads, ``hydra_heads`` and ``hydra_inner_size`` without Hydra heads.
    ``calibrated`` and ``choices``, the nodes of their static tree, are of either.  ``faults`` is
    empty for an adapter that can be served.
    """

    kind: str
    rank: int
    medusa_heads: int
    medusa_layers: int
    medusa_version: int
    hydra_heads: int
    hydra_inner_size: int
    calibrated: bool
    choices: int
    bytes: int
    base_model: str
    faults: tuple[str, ...]


def inspect(path: Path, shape: ModelShape | None = None) -> Inspection:
    """Look at everything, weights included; a fault is reported, never raised.

    Without ``shape`` only what would be wrong for every model is found.
    """
    try:
        configs = folder.read_configs(path)
    except AdapterMismatch as error:
        return Inspection("", 0, 0, 0, 0, 0, 0, False, 0, 0, "", (error.message,))
    try:
        opened = folder.open_folder(path)
        faults = tuple(folder.faults(opened, shape))
        if not faults:
            folder.read_folder(path, shape, torch.float32)
    except AdapterMismatch as error:
        return _inspection(configs, None, (error.message,))
    return _inspection(configs, opened, faults)


def _inspection(
    configs: folder.Configs, opened: folder.Folder | None, faults: tuple[str, ...]
) -> Inspection:
    heads: Mapping[str, Any] = configs.medusa or {}
    hydra: Mapping[str, Any] = configs.hydra or {}
    parts = (opened.lora_tensors, opened.medusa_tensors, opened.hydra_tensors) if opened else ()
    return Inspection(
        configs.kind,
        number((configs.lora or {}).get("r")),
        number(heads.get("medusa_num_heads")),
        number(heads.get("medusa_num_layers")),
        medusa.version(opened.medusa_tensors) if opened and heads else 0,
        number(hydra.get("hydra_num_heads")),
        number(hydra.get("hydra_inner_size")),
        opened is not None and opened.calibration is not None,
        len(opened.choices) if opened and isinstance(opened.choices, list) else 0,
        sum(tensor.nbytes for part in parts for tensor in part.values()),
        ", ".join(configs.base_models),
        faults,
    )


def number(value: object) -> int:
    """A config's number, or 0 where it has none."""
    return value if isinstance(value, int) else 0
