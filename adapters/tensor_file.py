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
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

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


class StoredTensor(NamedTuple):
    """A tensor in a file: ``start`` and ``end`` count bytes from the file's beginning."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def numel(self) -> int:
        return self.nbytes // self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.end - self.start


#: Each stored tensor, and the element of a slab that it is to begin at.
Places = Mapping[str, tuple[StoredTensor, int]]


@dataclass
class Run:
    """Tensors that lie side by side in a file and in a slab alike, and so are read as one.

    Its bytes ``start`` to ``end`` of the file become elements ``first`` to ``last`` of the slab;
    ``ends`` says at which byte each tensor ends.
    """

    path: Path
    dtype: torch.dtype
    start: int
    end: int
    first: int
    last: int
    ends: dict[str, int]

    def continues(self, stored: StoredTensor, offset: int) -> bool:
        return (
            stored.start == self.end
            and offset == self.last
            and stored.dtype is self.dtype
            and stored.path is self.path
        )


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
    for number in (*shape, start, end):
        if type(number) is not int or number < 0:
            raise _broken(path, f"its entry {name} is malformed")
    if dtype not in _DTYPES:
        raise AdapterMismatch(f"{path.name}: {name} has dtype {dtype}; supported: {list(_DTYPES)}")
    tensor = StoredTensor(path, _DTYPES[dtype], shape, data + start, data + end)
    if tensor.nbytes != math.prod(shape) * tensor.dtype.itemsize:
        raise _broken(path, f"{name} of {list(shape)} {dtype} cannot take {end - start} bytes")
    if tensor.end > size:
        raise _broken(path, f"{name} ends at byte {tensor.end} of {size}: the file is cut short")
    return tensor


def read_tensors(places: Places, data: torch.Tensor) -> None:
    """Read into ``data``, a flat contiguous host tensor, casting to its dtype.

    Raises AdapterMismatch where a file ends too early.
    """
    ordered = sorted(runs(places), key=lambda run: (run.path, run.start))
    for path, in_file in groupby(ordered, key=lambda run: run.path):
        try:
            with path.open("rb", buffering=0) as file:
                for run in in_file:
                    _read_run(file, run, data[run.first : run.last])
        except OSError as error:
            raise _broken(path, error.strerror or "not readable") from None


def runs(places: Places) -> list[Run]:
    """The fewer the better: while Python handles tensors one by one, the step loop stands still."""
    found: list[Run] = []
    for name, (stored, offset) in places.items():
        if not found or not found[-1].continues(stored, offset):
            path, dtype, _, start, _ = stored
            found.append(Run(path, dtype, start, start, offset, offset, {}))
        found[-1].end = found[-1].ends[name] = stored.end
        found[-1].last += stored.numel
    return found


def _read_run(file: Any, run: Run, target: torch.Tensor) -> None:
    file.seek(run.start)
    if run.dtype == target.dtype:
        _fill(file, target, run)
        return
    parts = chunks(target)
    buffer = torch.empty(parts[0].numel(), dtype=run.dtype)
    for part in parts:
        read = buffer[: part.numel()]
        _fill(file, read, run)
        part.copy_(read)


def _fill(file: Any, target: torch.Tensor, run: Run) -> None:
    buffer = target.view(torch.uint8).numpy().data
    while buffer:
        count = file.readinto(buffer)  # up to 2 GiB at a time
        if not count:
            inside = next(name for name, end in run.ends.items() if end > file.tell())
            raise _broken(run.path, f"it ends inside {inside}")
        buffer = buffer[count:]


def _broken(path: Path, why: str) -> AdapterMismatch:
    return AdapterMismatch(f"{path.name} is not a whole safetensors file: {why}")
