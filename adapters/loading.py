"""Reading one version of an adapter, on a loader thread."""

from __future__ import annotations

from collections.abc import Callable

from lorax_spec.adapters.source import Location, Source
from lorax_spec.adapters.weights import AdapterWeights
from lorax_spec.errors import AdapterMismatch, InternalError, LoraxSpecError, Unavailable
from lorax_spec.types import AdapterRef

_ATTEMPTS = 3


def load(
    source: Source,
    ref: AdapterRef,
    location: Location,
    read: Callable[[Location], AdapterWeights],
) -> tuple[Location, AdapterWeights]:
    """Weights that are whole, and where they were read.

    ``read`` may meet a folder that is being rewritten; what it gave, or its complaint, counts only
    if the folder looks the same afterwards.  Raises what ``read`` and ``source`` raise, and
    Unavailable where the folder never comes to rest.
    """
    for _ in range(_ATTEMPTS):
        complaint = weights = None
        try:
            weights = read(location)
        except AdapterMismatch as error:
            complaint = error
        seen, location = location, source.resolve(ref)
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
