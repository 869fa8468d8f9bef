"""Adapters that are on the device before the first request."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from lorax_spec.errors import LoraxSpecError
from lorax_spec.worker.core import Core

_AT_A_TIME = 8


class PreloadError(Exception):
    """An adapter that was to be there from the start cannot be."""


def preload(core: Core, adapter_ids: Sequence[str]) -> None:
    """Load and pin adapters; returns when all are on the device.

    Raises PreloadError for the first that cannot be, after closing the engine.
    """
    if not adapter_ids:
        return
    with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="preload") as threads:
        pins = [threads.submit(core.adapters.pin, one, True, None) for one in adapter_ids]
        try:
            for pin in pins:
                pin.result()
        except LoraxSpecError as error:
            core.close()  # which ends the waiting of the others
            raise PreloadError(error.message) from error
