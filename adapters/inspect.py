"""What an adapter folder holds and what is wrong with it, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorax_spec.adapters import folder, lora_tensors, medusa
from lorax_spec.adapters.lora_config import config_faults, scaling
from lorax_spec.adapters.shape import ModelShape
from lorax_spec.adapters.tensor_file import read_tensors
from lorax_spec.errors import AdapterMismatch


@dataclass(frozen=True)
class LoraInspection:
    """Of the modules with a low rank: their number, their distinct ranks and scales, and the last
    parts of their names.  ``whole`` are modules that are replaced, ``biases`` counts trained ones.
    """

    modules: int = 0
    ranks: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    targets: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    biases: int = 0
    rslora: bool = False
    dora: bool = False


@dataclass(frozen=True)
class Inspection:
    """``kind`` is empty where no config can be read; ``bytes`` is what the tensors take on disk,
    ``device_bytes`` what they take on the model's device, in ``dtype``: 0 where no model was given
    or something is wrong.

    ``rank`` is the largest, 0 without a LoRA; ``medusa_heads``, ``medusa_layers`` and
    ``medusa_version`` are 0 without Medusa heads, ``hydra_heads`` and ``hydra_inner_size`` without
    Hydra heads.  ``calibrated`` and ``choices``, the nodes of their static tree, are of either.
    ``files`` are those with tensors.  ``faults`` is empty for an adapter that can be served, on
    the model ``model_id`` where that is not empty.
    """

    kind: str = ""
    rank: int = 0
    lora: LoraInspection | None = None
    medusa_heads: int = 0
    medusa_layers: int = 0
    medusa_version: int = 0
    hydra_heads: int = 0
    hydra_inner_size: int = 0
    calibrated: bool = False
    choices: int = 0
    chat_template: bool = False
    added_tokens: int = 0
    files: tuple[str, ...] = ()
    bytes: int = 0
    device_bytes: int = 0
    dtype: str = ""
    base_model: str = ""
    model_id: str = ""
    faults: tuple[str, ...] = ()


def inspect(
    path: Path, shape: ModelShape | None = None, dtype: torch.dtype = torch.float32
) -> Inspection:
    """Look at everything, weights included; a fault is reported, never raised.

    Without ``shape`` only what would be wrong for every model is found.  ``dtype``: the model's.
    """
    try:
        configs = folder.read_configs(path)
    except AdapterMismatch as error:
        return Inspection(faults=(error.message,))
    try:
        opened = folder.open_folder(path)
        faults = tuple(folder.faults(opened, shape)) or tuple(weight_faults(opened, dtype))
    except AdapterMismatch as error:
        return _inspection(configs, None, shape, dtype, (error.message,))
    return _inspection(configs, opened, shape, dtype, faults)


def _inspection(
    configs: folder.Configs,
    opened: folder.Folder | None,
    shape: ModelShape | None,
    dtype: torch.dtype,
    faults: tuple[str, ...],
) -> Inspection:
    heads: Mapping[str, Any] = configs.medusa or {}
    hydra: Mapping[str, Any] = configs.hydra or {}
    lora = None if configs.lora is None else _lora(configs.lora, opened)
    stored = opened.tensors.values() if opened else ()
    fits = opened is not None and shape is not None and not faults
    device_bytes = 0
    if opened is not None and shape is not None and not faults:
        device_bytes = folder.size_on_device(opened, shape, dtype)
    return Inspection(
        kind=configs.kind,
        rank=max(lora.ranks, default=number((configs.lora or {}).get("r"))) if lora else 0,
        lora=lora,
        medusa_heads=number(heads.get("medusa_num_heads")),
        medusa_layers=number(heads.get("medusa_num_layers")),
        medusa_version=medusa.version(opened.medusa_tensors) if opened and heads else 0,
        hydra_heads=number(hydra.get("hydra_num_heads")),
        hydra_inner_size=number(hydra.get("hydra_inner_size")),
        calibrated=opened is not None and opened.calibration is not None,
        choices=len(opened.choices) if opened and isinstance(opened.choices, list) else 0,
        chat_template=opened is not None and bool(opened.extras.chat_template),
        added_tokens=len(opened.extras.added_tokens) if opened else 0,
        files=tuple(sorted({tensor.path.name for tensor in stored})),
        bytes=sum(tensor.nbytes for tensor in stored),
        device_bytes=device_bytes,
        dtype=str(dtype).removeprefix("torch.") if fits else "",
        base_model=", ".join(configs.base_models),
        model_id=shape.model_id if shape else "",
        faults=faults,
    )


def _lora(config: Mapping[str, Any], opened: folder.Folder | None) -> LoraInspection:
    """Of any config, right or wrong."""
    known = not list(config_faults(config))
    flags = bool(config.get("use_rslora")), bool(config.get("use_dora"))
    if opened is None:
        return LoraInspection(rslora=flags[0], dora=flags[1])
    modules, _ = lora_tensors.parts(opened.lora_tensors)
    updated = {path: one.low_rank for path, one in modules.items() if one.low_rank}
    ranks = {a.shape[0] for a, _ in updated.values() if a is not None and a.shape}
    scales = {scaling(config).scale_of(path) for path in updated} if known else set()
    return LoraInspection(
        len(updated),
        tuple(sorted(ranks)),
        tuple(sorted(scales)),
        tuple(sorted({path.rpartition(".")[2] for path in updated})),
        tuple(path for path, one in modules.items() if one.weight),
        sum(1 for one in modules.values() if one.bias or one.b_bias),
        *flags,
    )


def weight_faults(opened: folder.Folder, dtype: torch.dtype) -> Iterator[str]:
    """Which weights are not finite; raises AdapterMismatch where a file ends too early."""
    for name, stored in opened.tensors.items():
        data = torch.empty(stored.numel, dtype=dtype)
        read_tensors({name: (stored, 0)}, data)
        if not folder.is_finite(data):
            yield f"not finite in {str(dtype).removeprefix('torch.')}: {name}"


def number(value: object) -> int:
    """A config's number, or 0 where it has none."""
    return value if isinstance(value, int) else 0
