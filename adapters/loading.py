"""Reading one version of an adapter, on a loader thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from lorax_spec.adapters.source import Location, Source
from lorax_spec.adapters.weights import AdapterWeights
from lorax_spec.errors import AdapterMismatch, InternalError, LoraxSpecError, Unavailable
from lorax_spec.types import AdapterRef, MergedRef

#: Seconds before each reading: who writes a folder is mostly done a moment later.
_PAUSES = (0.0, 0.0, 0.05, 0.25)


def load(
    source: Source,
    ref: AdapterRef | MergedRef,
    location: Location,
    read: Callable[[Location], AdapterWeights],
) -> tuple[Location, AdapterWeights]:
    """Weights that are whole, and where they were read.

    ``read`` may meet a folder that is being rewritten; what it gave, or its complaint, counts only
    if the folder looks the same afterwards.  Raises what ``read`` and ``source`` raise, and
    Unavailable where the folder never comes to rest.
    """
    for pause in _PAUSES:
        if pause:
            time.sleep(pause)
            location = _now(source, ref, location)
        complaint = weights = None
        try:
            weights = read(location)
        except AdapterMismatch as error:
            complaint = error
        seen, location = location, _now(source, ref, location)
        if seen != location:
            continue
        if weights is not None:
            return location, weights
        if complaint is not None:
            raise complaint
    raise Unavailable("it was rewritten while it was read; try again")


def as_fault(adapter_id: str, error: Exception) -> LoraxSpecError:
    """The one clear error that a request gets for a failed load of ``adapter_id``."""
    if isinstance(error, LoraxSpecError):
        return type(error)(f"adapter {adapter_id}: {error.message}")
    return InternalError(f"adapter {adapter_id}: {type(error).__name__}: {error}")


def _now(source: Source, ref: AdapterRef | MergedRef, location: Location) -> Location:
    """What ``location`` is now; files under a commit are what they were."""
    if isinstance(ref, MergedRef):
        pairs = zip(ref.parts, location.parts, strict=True)
        return replace(location, parts=tuple(_now(source, *pair) for pair in pairs))
    if location.commit:
        return location
    found = source.resolve(ref)
    if found is None or found.key != location.key:
        raise Unavailable("it moved elsewhere while it was read; try again")
    return found
