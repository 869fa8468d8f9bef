"""Model and adapter folders: read whole where they are small, written a part at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lorax_spec.errors import InvalidArgument

Tensors = Mapping[str, torch.Tensor]

#: Written anew, or of no use beside what is.
_REPLACED = ("*.safetensors", "*.index.json", "*.bin", "*.pt", "*.pth", "*.gguf", "*.msgpack")


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All safetensors of a folder; raises InvalidArgument where there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InvalidArgument(f"there is no .safetensors file in {folder}")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def read_json(file: Path) -> dict[str, Any]:
    """An object; raises InvalidArgument where there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{file} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise InvalidArgument(f"{file} is not a JSON object")
    return content


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_sharded(parts: Iterable[Tensors], count: int, folder: Path) -> int:
    """One file for each of ``count`` parts, and the index transformers reads; gives the bytes."""
    places: dict[str, str] = {}
    size = 0
    for number, tensors in enumerate(parts, start=1):
        file = f"model-{number:05}-of-{count:05}.safetensors"
        save_file(dict(tensors), folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
        size += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    write_json(folder / "model.safetensors.index.json", index)
    return size


def copy_beside(source: Path, target: Path, *written: str) -> None:
    """Tokenizers, calibrations and whatever else a folder holds beside weights and ``written``."""
    for file in sorted(source.iterdir()):
        replaced = file.name in written or any(map(file.match, _REPLACED))
        if file.is_file() and not replaced and not file.name.startswith("."):
            shutil.copy(file, target)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill that becomes ``target`` when all of it is there, and is gone otherwise.

    Raises InvalidArgument where ``target`` is there already, and is not empty.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InvalidArgument(f"{target} is there already", field="output")
    draft = target.with_name(f".{target.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        if target.exists():
            target.rmdir()
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
