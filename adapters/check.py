"""Comparing what a folder holds with what it should hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lorax_spec.adapters.tensor_file import StoredTensor

Shapes = Mapping[str, tuple[int, ...]]


def tensor_faults(expected: Shapes, tensors: Mapping[str, StoredTensor]) -> Iterator[str]:
    """What is missing or has another shape."""
    for name, shape in expected.items():
        if name not in tensors:
            yield f"tensor {name} is missing"
        elif tensors[name].shape != shape:
            yield f"{name} is {list(tensors[name].shape)}, this model needs {list(shape)}"


def whole_number(config: Mapping[str, Any], field: str, least: int) -> str | None:
    """What is wrong with an integer field of a config, or None."""
    value = config.get(field)
    if type(value) is int and least <= value < 2**31:
        return None
    return f"{field} is {value!r}, not a whole number of at least {least}"
