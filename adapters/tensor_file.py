"""Reading safetensors files that may be rewritten or broken while they are read.

The safetensors library maps a file into memory, and a mapped file that shrinks under its reader
kills the process.  An adapter folder belongs to others, so here every byte is read and checked:
a fault is an exception that costs one request.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorax_spec.adapters.slab import chunks
from lorax_spec.errors import AdapterMismatch

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_MAX_HEADER = 16 * 2**20


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: ``start`` counts bytes from the file's beginning."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors a file says it holds, without reading them.

    Raises AdapterMismatch where the file cannot be read or is not whole.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER):
                raise _broken(path, f"{size} bytes cannot hold a header of {length}")
            header = json.loads(file.read(length))
    except OSError as error:
        raise _broken(path, error.strerror or "not readable") from None
    except (ValueError, RecursionError):
        raise _broken(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _broken(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    return {name: _entry(path, name, value, 8 + length, size) for name, value in header.items()}


def _entry(path: Path, name: str, value: Any, data: int, size: int) -> StoredTensor:
    try:
        dtype, shape = value["dtype"], tuple(value["shape"])
        start, end = value["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise _broken(path, f"its entry {name} is malformed") from None
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise _broken(path, f"its entry {name} is malformed")
    if dtype not in _DTYPES:
        raise AdapterMismatch(f"{path.name}: {name} has dtype {dtype}; supported: {list(_DTYPES)}")
    tensor = StoredTensor(path, _DTYPES[dtype], shape, data + start)
    if end - start != tensor.nbytes:
        raise _broken(path, f"{name} of {list(shape)} {dtype} cannot take {end - start} bytes")
    if data + end > size:
        raise _broken(path, f"{name} ends at byte {data + end} of {size}: the file is cut short")
    return tensor


def read_tensors(targets: Mapping[str, tuple[StoredTensor, torch.Tensor]]) -> None:
    """Read into ``targets``, contiguous host tensors of the same shapes, cast to their dtypes.

    Raises AdapterMismatch where a file ends too early.
    """
    by_path: dict[Path, list[str]] = {}
    for name, (stored, _) in targets.items():
        by_path.setdefault(stored.path, []).append(name)
    for path, names in by_path.items():
        try:
            with path.open("rb", buffering=0) as file:
                for name in names:
                    stored, target = targets[name]
                    file.seek(stored.start)
                    same = target.dtype == stored.dtype
                    buffer = target if same else torch.empty(stored.shape, dtype=stored.dtype)
                    _fill(file, buffer.view(-1).view(torch.uint8).numpy().data, path, name)
                    if not same:
                        for here, there in zip(chunks(target), chunks(buffer), strict=True):
                            here.copy_(there)
        except OSError as error:
            raise _broken(path, error.strerror or "not readable") from None


def _fill(file: Any, buffer: memoryview, path: Path, name: str) -> None:
    while buffer:
        count = file.readinto(buffer)  # up to 2 GiB at a time
        if not count:
            raise _broken(path, f"it ends inside {name}")
        buffer = buffer[count:]


def _broken(path: Path, why: str) -> AdapterMismatch:
    return AdapterMismatch(f"{path.name} is not a whole safetensors file: {why}")
