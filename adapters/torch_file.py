"""Reading what ``torch.save`` wrote, without ever running it.

Such a file is a zip archive, its members not compressed, of the tensors' bytes and a pickle that
says which are which.  A pickle is a program that may call anything.  Here its steps are followed
on paper: it may build dictionaries, lists and tuples of plain values, and speak of a tensor in the
words torch uses; at anything else the file is refused.
"""

from __future__ import annotations

import math
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from lorax_spec.adapters.tensor_file import StoredTensor
from lorax_spec.errors import AdapterMismatch

_MAX_DIRECTORY = 4 * 2**20
_MAX_PICKLE = 2**20
_END, _END_SIZE = b"PK\5\6", 22
_ENTRY, _ENTRY_SIZE = b"PK\1\2", 46
_LOCAL, _LOCAL_SIZE = b"PK\3\4", 30

_STORAGES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
}
_MARK = object()


@dataclass(frozen=True)
class _Member:
    start: int
    size: int


@dataclass(frozen=True)
class _Named:
    """A global that the pickle names; it is not looked up."""

    name: str


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    member: _Member


def read_torch_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a dictionary that ``torch.save`` wrote, without reading them.

    Raises AdapterMismatch where the file is no such thing, or its pickle wants anything else done.
    """
    try:
        with path.open("rb") as file:
            members = _members(file, path)
            name = next((name for name in members if name.endswith("/data.pkl")), None)
            if name is None:
                raise _broken(path, "it has no data.pkl")
            root = name.removesuffix("data.pkl")
            if (order := members.get(f"{root}byteorder")) and _read(file, order) != b"little":
                raise _broken(path, "its bytes are not in little-endian order")
            if members[name].size > _MAX_PICKLE:
                raise _broken(path, f"its pickle is larger than {_MAX_PICKLE} bytes")
            program = _read(file, members[name])
    except OSError as error:
        raise _broken(path, error.strerror or "not readable") from None
    data = {
        key.removeprefix(f"{root}data/"): member
        for key, member in members.items()
        if key.startswith(f"{root}data/")
    }
    try:
        found = _Steps(path, data).follow(program)
    except (ValueError, IndexError, TypeError, KeyError, RecursionError):
        raise _broken(path, "its pickle makes no sense") from None
    if not isinstance(found, dict):
        raise _broken(path, "it is not a dictionary of tensors")
    for key, value in found.items():
        if not isinstance(value, StoredTensor):
            raise _broken(path, f"its entry {key[:80]!r} is not a tensor")
    return found


def _members(file: BinaryIO, path: Path) -> dict[str, _Member]:
    """Where the archive's members lie; all must be there as they are, not compressed."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_SIZE - 2**16))
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise _broken(path, "it is no zip archive")
    count, length, first = struct.unpack_from("<HII", tail, at + 10)
    if length > _MAX_DIRECTORY or first + length > size:
        raise _broken(path, "its directory is too large, or beyond its end")
    file.seek(first)
    directory, offset = file.read(length), 0
    members: dict[str, _Member] = {}
    for _ in range(count):
        if directory[offset : offset + 4] != _ENTRY or offset + _ENTRY_SIZE > length:
            raise _broken(path, "its directory is cut short")
        method, _, _, _, stored, full, name, extra, comment = struct.unpack_from(
            "<HHHIIIHHH", directory, offset + 10
        )
        (start,) = struct.unpack_from("<I", directory, offset + 42)
        label = directory[offset + _ENTRY_SIZE :][:name].decode("utf-8", "replace")
        offset += _ENTRY_SIZE + name + extra + comment
        file.seek(start)
        local = file.read(_LOCAL_SIZE)
        if local[:4] != _LOCAL or len(local) < _LOCAL_SIZE or method or stored != full:
            raise _broken(path, f"{label} is compressed, larger than 4 GiB or not there")
        start += _LOCAL_SIZE + sum(struct.unpack_from("<HH", local, 26))
        if start + full > size or label in members:
            raise _broken(path, f"{label} ends beyond the file's end, or is there twice")
        members[label] = _Member(start, full)
    return members


def _read(file: BinaryIO, member: _Member) -> bytes:
    file.seek(member.start)
    return file.read(member.size)


class _Steps:
    """Follows a pickle's steps over a stack of plain values, storages and tensors.

    Values may be nested so that looking at all of one takes for ever: none but strings and numbers
    is hashed, compared or shown.
    """

    def __init__(self, path: Path, data: dict[str, _Member]) -> None:
        self._path = path
        self._data = data
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._calls: dict[str, Callable[..., Any]] = {
            "collections OrderedDict": dict,
            "torch._utils _rebuild_tensor_v2": self._tensor,
            "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
        }

    def follow(self, program: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(program):
            name = opcode.name
            if name == "STOP":
                return self._stack.pop()
            if name in ("PROTO", "FRAME"):
                continue
            step = getattr(self, f"_on_{name.lower()}", None)
            if step is not None:
                step(argument)
            elif name in _PLAIN:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            else:
                raise _broken(self._path, f"its pickle wants {name} done, which is not")
        raise ValueError("it does not stop")

    def _until_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            if at == 0:
                raise ValueError("no mark")
            at -= 1
        found = self._stack[at + 1 :]
        del self._stack[at:]
        return found

    def _on_mark(self, _: object) -> None:
        self._stack.append(_MARK)

    def _on_binput(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    _on_long_binput = _on_binput

    def _on_memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _on_binget(self, index: int) -> None:
        self._stack.append(self._memo[index])

    _on_long_binget = _on_binget

    def _on_global(self, name: str) -> None:
        self._stack.append(_Named(name))

    def _on_stack_global(self, _: object) -> None:
        name, module = _require(self._stack.pop(), str), _require(self._stack.pop(), str)
        self._stack.append(_Named(f"{module} {name}"))

    def _on_tuple(self, _: object) -> None:
        self._stack.append(tuple(self._until_mark()))

    def _on_tuple1(self, _: object) -> None:
        self._stack[-1:] = [tuple(self._stack[-1:])]

    def _on_tuple2(self, _: object) -> None:
        self._stack[-2:] = [tuple(self._stack[-2:])]

    def _on_tuple3(self, _: object) -> None:
        self._stack[-3:] = [tuple(self._stack[-3:])]

    def _on_append(self, _: object) -> None:
        value = self._stack.pop()
        _require(self._stack[-1], list).append(value)

    def _on_appends(self, _: object) -> None:
        values = self._until_mark()
        _require(self._stack[-1], list).extend(values)

    def _on_setitem(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        _require(self._stack[-1], dict)[_require(key, str)] = value

    def _on_setitems(self, _: object) -> None:
        values = self._until_mark()
        target = _require(self._stack[-1], dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_require(key, str)] = value

    def _on_build(self, _: object) -> None:
        """An OrderedDict's attributes, among which torch keeps versions of modules."""
        self._stack.pop()
        _require(self._stack[-1], dict)

    def _on_binpersid(self, _: object) -> None:
        _, named, key, _, numel = _require(self._stack.pop(), tuple)
        name = _require(named, _Named).name
        if (dtype := _STORAGES.get(name)) is None:
            raise _broken(self._path, f"it holds a {name[:80]!r}, not floating-point numbers")
        member = self._data[_require(key, str)]
        if _require(numel, int) * dtype.itemsize != member.size:
            raise _broken(self._path, f"data/{key} has {member.size} bytes, not {numel} numbers")
        self._stack.append(_Storage(dtype, member))

    def _on_reduce(self, _: object) -> None:
        arguments, named = self._stack.pop(), self._stack.pop()
        name = named.name if isinstance(named, _Named) else "something"
        call = self._calls.get(name)
        if call is None:
            raise _broken(self._path, f"its pickle wants to call {name[:80]!r}, which is not done")
        self._stack.append(call(*_require(arguments, tuple)))

    def _tensor(
        self, storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
    ) -> StoredTensor:
        numbers = (offset, *_require(shape, tuple), *_require(strides, tuple))
        if any(type(one) is not int or one < 0 for one in numbers):
            raise ValueError("sizes are whole numbers")
        dtype, member = _require(storage, _Storage).dtype, storage.member
        count, dense, step = math.prod(shape), len(shape) == len(strides), 1
        for size, stride in zip(reversed(shape), reversed(strides), strict=False):
            # What steps over one element, or over none, may be of any length.
            dense = dense and (stride == step or size == 1 or count == 0)
            step *= size
        first = member.start + offset * dtype.itemsize
        last = first + count * dtype.itemsize
        if not dense or last > member.start + member.size:
            raise _broken(self._path, "it has tensors that do not lie in one piece")
        return StoredTensor(self._path, dtype, shape, first, last)


_PLAIN = {"BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}


def _require(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{kind.__name__} expected")
    return value


def _broken(path: Path, why: str) -> AdapterMismatch:
    return AdapterMismatch(f"{path.name} is not a file of tensors that torch saved: {why}")
