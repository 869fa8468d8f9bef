"""What a request for merged adapters must be before anything is loaded for it."""

from __future__ import annotations

import math

from lorax_spec.errors import InvalidArgument
from lorax_spec.types import BASE_MODEL, AdapterRef, GenerateRequest, MergedAdapters, MergedRef

#: Adapters merged into one at most: all of them lie in memory while that is done.
MAX_PARTS = 16

_METHODS = ("linear", "ties", "dare_linear", "dare_ties")
_PRUNING = _METHODS[1:]
_ELECTING = ("ties", "dare_ties")
_SIGN_METHODS = ("total", "frequency")
_DENSITY = 0.5


def merged_ref(merged: MergedAdapters, request: GenerateRequest) -> MergedRef:
    """What ``request`` asks to be merged, complete.

    What its method does not use is at its default there, so that the same adapter has one name.
    A single adapter is merged linearly, as peft does it, whatever the method.

    Raises InvalidArgument naming the wrong field.
    """
    if request.adapter_id:
        raise _invalid("", "cannot be given beside `adapter_id`")
    if request.adapter_revision:
        message = "`adapter_revision` cannot be given beside `merged_adapters`"
        raise InvalidArgument(message, "adapter_revision")
    _check_ids(merged.ids)
    weights = tuple(float(weight) for weight in merged.weights) or (1.0,) * len(merged.ids)
    if len(weights) != len(merged.ids):
        raise _invalid("weights", f"are {len(weights)} for {len(merged.ids)} adapters")
    if not all(math.isfinite(weight) for weight in weights):
        raise _invalid("weights", "must be finite")
    method = merged.merge_strategy
    _check_choice("merge_strategy", method, _METHODS)
    _check_choice("majority_sign_method", merged.majority_sign_method, _SIGN_METHODS)
    density = _DENSITY if merged.density is None else merged.density
    unused = density == 0 and method not in _PRUNING  # LoRAX's way to say nothing
    if not (0 < density <= 1 or unused):
        raise _invalid("density", f"must be above 0 and at most 1, not {density}")
    if len(merged.ids) == 1:
        method = "linear"
    source, token = request.adapter_source or "", request.api_token or ""
    return MergedRef(
        tuple(AdapterRef(adapter_id, source, "", token) for adapter_id in merged.ids),
        weights,
        method,
        density if method in _PRUNING else 1.0,
        merged.majority_sign_method if method in _ELECTING else "total",
    )


def _check_ids(ids: tuple[str, ...]) -> None:
    if not ids:
        raise _invalid("ids", "cannot be empty")
    if len(ids) > MAX_PARTS:
        raise _invalid("ids", f"are {len(ids)}; {MAX_PARTS} are the most")
    for adapter_id in ids:
        if not adapter_id:
            raise _invalid("ids", "must not hold an empty string")
        if adapter_id == BASE_MODEL:
            raise _invalid("ids", f"must not hold {BASE_MODEL}: the base model is no adapter")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise _invalid(name, f"must be one of {', '.join(choices)}, not {value!r:.40}")


def _invalid(name: str, problem: str) -> InvalidArgument:
    field = f"merged_adapters.{name}" if name else "merged_adapters"
    return InvalidArgument(f"`{field}` {problem}", field)
