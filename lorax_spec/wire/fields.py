"""Setting and reading single fields: ranges, absence, and floats that stay what was written."""

from __future__ import annotations

import reprlib
import struct
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from lorax_spec.errors import InvalidArgument


def assign(message: Message, values: Mapping[str, Any], path: str = "") -> None:
    """Set each field whose value is not None.

    Raises ``InvalidArgument`` naming ``path + name`` where a value has the wrong type or does not
    fit its field.
    """
    for name, value in values.items():
        if value is None:
            continue
        try:
            setattr(message, name, value)
        except (TypeError, ValueError) as error:
            raise misfit(path + name, value) from error


def extend(message: Message, name: str, values: Any, path: str = "") -> None:
    """Append ``values`` to a repeated field; errors as in ``assign``."""
    try:
        getattr(message, name).extend(values)
    except (TypeError, ValueError) as error:
        raise misfit(path + name, values) from error


def misfit(field: str, value: object) -> InvalidArgument:
    return InvalidArgument(f"{field} cannot be {reprlib.repr(value)}", field=field)


def optional(message: Message, name: str) -> Any:
    """The field's value; None where the sender left it out."""
    return getattr(message, name) if message.HasField(name) else None


def optional_float(message: Message, name: str) -> float | None:
    return shortest(getattr(message, name)) if message.HasField(name) else None


def shortest(value: float) -> float:
    """The float64 with the fewest digits that rounds to the float32 ``value``.

    A caller who writes 0.7 is served 0.7, not 0.699999988: the wire carries float32, and a request
    must mean the same in process and through a server.
    """
    for digits in (6, 7, 8):
        candidate = float(f"{value:.{digits}g}")
        if _float32(candidate) == value:
            return candidate
    return value


def _float32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return float("inf")
