"""Reading an adapter folder: a LoRA, Medusa or Hydra heads, or a LoRA and heads together."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lorax_spec.adapters import (
    calibration,
    choices,
    extras,
    hydra,
    lora,
    medusa,
    medusa_layout,
)
from lorax_spec.adapters.extras import AdapterExtras, read_extras
from lorax_spec.adapters.lora_fold import EMPTY, Plan, fold
from lorax_spec.adapters.shape import ModelShape
from lorax_spec.adapters.slab import Slab, allocate, chunks, layout
from lorax_spec.adapters.tensor_file import StoredTensor, read_header, read_tensors
from lorax_spec.adapters.torch_file import read_torch_header
from lorax_spec.adapters.weights import AdapterWeights, Kind, assemble, kind_of
from lorax_spec.errors import AdapterMismatch

CONFIGS = (lora.CONFIG, medusa.CONFIG)
#: What else is read beside tensors.
EXTRAS = (calibration.FILE, choices.FILE)
_MAX_CONFIG = 2**20
_SAFETENSORS = ".safetensors"
_PICKLES = ("*.pt", "*.pth", "*.bin")
#: A file of torch.save that is read where there are no safetensors.
_TORCH_FILE = "medusa_lm_head.pt"
_SHOWN_FAULTS = 5


@dataclass(frozen=True)
class Configs:
    """What a folder says it holds; None for what it does not."""

    lora: Mapping[str, Any] | None
    medusa: Mapping[str, Any] | None
    hydra: Mapping[str, Any] | None

    @property
    def kind(self) -> Kind:
        return kind_of(self.lora is not None, self.medusa is not None, self.hydra is not None)

    @property
    def num_heads(self) -> Any:
        """What the config of the heads says, right or wrong; None without heads."""
        if self.medusa is not None:
            return self.medusa.get("medusa_num_heads")
        return None if self.hydra is None else self.hydra.get("hydra_num_heads")

    @property
    def base_models(self) -> tuple[str, ...]:
        """The base models the configs name; at most two."""
        configs = (self.lora, self.medusa, self.hydra)
        named = (config.get("base_model_name_or_path") for config in configs if config)
        return tuple(dict.fromkeys(name for name in named if isinstance(name, str) and name))


@dataclass(frozen=True)
class Folder:
    """A folder's configs and the headers of its tensors, parted by whom they belong to.

    ``calibration``, an object, and ``choices`` are the heads' as found; None for none.
    """

    configs: Configs
    lora_tensors: Mapping[str, StoredTensor]
    medusa_tensors: Mapping[str, StoredTensor]
    hydra_tensors: Mapping[str, StoredTensor]
    other_tensors: tuple[str, ...]
    calibration: dict[str, Any] | None
    choices: Any
    extras: AdapterExtras

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """All that belong to something."""
        return {**self.lora_tensors, **self.medusa_tensors, **self.hydra_tensors}


def read_configs(path: Path) -> Configs:
    """Raises AdapterMismatch where ``path`` has no readable adapter config."""
    lora_config = _read_json(path / lora.CONFIG)
    # Without heads it is the base model's config, which PEFT users like to leave there.
    heads_config = _read_json(path / medusa.CONFIG) or {}
    medusa_config = medusa_layout.common_config(heads_config)
    hydra_config = heads_config if "hydra_num_heads" in heads_config else None
    if medusa_config is not None and hydra_config is not None:
        raise AdapterMismatch(
            f"{medusa.CONFIG} has both medusa_num_heads and hydra_num_heads; an adapter has heads "
            "of one kind"
        )
    if lora_config is None and medusa_config is None and hydra_config is None:
        raise AdapterMismatch(
            f"there is neither {lora.CONFIG} nor a {medusa.CONFIG} with medusa_num_heads or "
            "hydra_num_heads"
        )
    return Configs(lora_config, medusa_config, hydra_config)


def open_folder(path: Path) -> Folder:
    """Read configs and headers, no weights; raises AdapterMismatch where that fails."""
    configs = read_configs(path)
    tensors: dict[str, StoredTensor] = {}
    for file in _weight_files(path):
        if not file.is_file():
            raise AdapterMismatch(f"{file.name} is not a regular file")
        read = read_header if file.name.endswith(_SAFETENSORS) else read_torch_header
        for name, tensor in read(file).items():
            if name in tensors:
                raise AdapterMismatch(f"{name} is in {tensors[name].path.name} and {file.name}")
            tensors[name] = tensor
    lora_tensors: dict[str, StoredTensor] = {}
    medusa_tensors: dict[str, StoredTensor] = {}
    hydra_tensors: dict[str, StoredTensor] = {}
    other_tensors: list[str] = []
    for name, tensor in tensors.items():
        if lora.owns(name):
            lora_tensors[name] = tensor
        elif (heads_name := medusa_layout.common_name(name, configs.medusa or {})) is not None:
            if heads_name in medusa_tensors:
                raise AdapterMismatch(f"{name} is there twice, under two names")
            medusa_tensors[heads_name] = tensor
        elif hydra.owns(name):
            hydra_tensors[name] = tensor
        else:
            other_tensors.append(name)
    return Folder(
        configs,
        lora_tensors,
        medusa_tensors,
        hydra_tensors,
        tuple(other_tensors),
        *_read_guidance(path, configs),
        read_extras(path),
    )


def _weight_files(path: Path) -> list[Path]:
    """The files that are read.  Safetensors stand in for the pickle they were made from."""
    if files := sorted(path.glob(f"*{_SAFETENSORS}")):
        return files
    if (path / _TORCH_FILE).exists():
        return [path / _TORCH_FILE]
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if pickles:
        raise AdapterMismatch(f"{pickles[0]} is a pickle, which is not read; use safetensors")
    raise AdapterMismatch(f"there is no {_SAFETENSORS} file")


def faults(folder: Folder, shape: ModelShape | None) -> Iterator[str]:
    """What keeps the folder from being served on the model; without ``shape``, on any model."""
    for name in folder.configs.base_models:
        if shape is not None and shape.is_other_model(name):
            yield f"it was made for {name}, this model is {shape.model_id}"
    for name in folder.other_tensors:
        yield f"tensor {name} is not supported"
    parts: Iterable[tuple[Any, Mapping[str, Any] | None, Mapping[str, StoredTensor]]] = (
        (lora, folder.configs.lora, folder.lora_tensors),
        (medusa, folder.configs.medusa, folder.medusa_tensors),
        (hydra, folder.configs.hydra, folder.hydra_tensors),
    )
    if folder.medusa_tensors and folder.hydra_tensors:
        yield "it holds Medusa and Hydra heads; an adapter has heads of one kind"
    for form, config, tensors in parts:
        if config is not None:
            wrong = list(form.config_faults(config))
            yield from wrong or form.tensor_faults(config, tensors, shape)
        elif tensors:
            yield f"tensor {next(iter(tensors))} is there, but no {form.CONFIG} speaks of it"
    if shape is not None:
        yield from extras.faults(folder.extras, shape.vocab_size)
    num_heads = folder.configs.num_heads
    if isinstance(num_heads, int):
        if folder.calibration is not None:
            yield from calibration.faults(folder.calibration, num_heads)
        if folder.choices is not None:
            yield from choices.faults(folder.choices, num_heads)


def read_folder(
    path: Path,
    shape: ModelShape,
    dtype: torch.dtype,
    max_bytes: int | None = None,
    pinned: bool = False,
) -> AdapterWeights:
    """Read an adapter into one host slab of ``dtype``, page-locked if ``pinned``.

    Raises AdapterMismatch saying what does not fit ``shape``, what is missing, broken or not
    finite, or that the slab would be larger than ``max_bytes``; all but the last two before any
    weight is read.
    """
    folder = open_folder(path)
    if wrong := list(faults(folder, shape)):
        raise AdapterMismatch(_joined(wrong))
    plan, shapes = _planned(folder, shape)
    pieces, numel = layout(shapes)
    needed = numel * dtype.itemsize
    if max_bytes is not None and needed > max_bytes:
        raise AdapterMismatch(f"it takes {needed} bytes, all adapters together have {max_bytes}")
    slab = allocate(pieces, numel, dtype, pinned)
    places = {name: (tensor, pieces[name].offset) for name, tensor in plan.stored.items()}
    places |= medusa.places(folder.medusa_tensors, pieces)
    places |= hydra.places(folder.hydra_tensors, pieces)
    read_tensors(places, slab.data)
    fold(plan, slab, shape.parameters)
    _require_finite(slab)
    weights = assemble(
        slab,
        plan.scales,
        None if folder.calibration is None else calibration.parse(folder.calibration),
        None if folder.choices is None else choices.parse(folder.choices),
    )
    return replace(weights, chat=folder.extras.chat)


def _require_finite(slab: Slab) -> None:
    if not is_finite(slab.data):
        broken = [name for name in slab.pieces if not is_finite(slab[name])]
        raise AdapterMismatch(
            f"not finite in {str(slab.data.dtype).removeprefix('torch.')}: {_joined(broken)}"
        )


def size_on_device(folder: Folder, shape: ModelShape, dtype: torch.dtype) -> int:
    """Bytes that a faultless folder takes in memory."""
    return layout(_planned(folder, shape)[1])[1] * dtype.itemsize


def _planned(folder: Folder, shape: ModelShape) -> tuple[Plan, dict[str, tuple[int, ...]]]:
    """How a faultless folder's LoRA gets into a slab, and the shapes of all the slab's pieces."""
    plan, configs = EMPTY, folder.configs
    if configs.lora is not None:
        plan = lora.planned(configs.lora, folder.lora_tensors, shape)
    shapes = dict(plan.shapes)
    if configs.medusa is not None:
        shapes |= medusa.shapes(configs.medusa, folder.medusa_tensors)
    if configs.hydra is not None:
        shapes |= hydra.shapes(configs.hydra, folder.hydra_tensors)
    return plan, shapes


def is_finite(tensor: torch.Tensor) -> bool:
    """Least and largest element are finite just where all are, and ten times as quick to find."""
    extremes = (end for chunk in chunks(tensor) if len(chunk) for end in torch.aminmax(chunk))
    return all(math.isfinite(end) for end in extremes)


def _read_guidance(path: Path, configs: Configs) -> tuple[dict[str, Any] | None, Any]:
    """The heads' calibration and static tree."""
    heads_config = configs.medusa or configs.hydra
    if heads_config is None:
        return None, None
    in_config, in_file = heads_config.get(choices.KEY), _read_json(path / choices.FILE, list)
    if in_config is not None and in_file is not None:
        raise AdapterMismatch(f"{choices.KEY} is in {medusa.CONFIG} and in {choices.FILE}")
    found = in_config if in_file is None else in_file
    return _read_json(path / calibration.FILE), found


def _read_json(path: Path, form: type = dict) -> Any:
    """A JSON object, or a list where that is the ``form``; None where there is no such file."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            text = file.read(_MAX_CONFIG + 1)
        content = json.loads(text)
    except OSError as error:
        raise AdapterMismatch(f"{path.name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise AdapterMismatch(f"{path.name} is not JSON of at most {_MAX_CONFIG} bytes") from None
    if not isinstance(content, form):
        raise AdapterMismatch(f"{path.name} is not a JSON {'list' if form is list else 'object'}")
    return content


def _joined(faults: list[str]) -> str:
    rest = len(faults) - _SHOWN_FAULTS
    return "; ".join(faults[:_SHOWN_FAULTS]) + (f"; and {rest} more" if rest > 0 else "")
