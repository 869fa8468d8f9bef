"""What the loading of a version does, stage by stage, on threads of the manager's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import torch

from lorax_spec.adapters.folder import read_folder
from lorax_spec.adapters.loading import load
from lorax_spec.adapters.lookups import Ref, parts_of
from lorax_spec.adapters.merging import merge
from lorax_spec.adapters.shape import ModelShape
from lorax_spec.adapters.source import Location, Source
from lorax_spec.adapters.weights import AdapterWeights
from lorax_spec.errors import AdapterMismatch, LoraxSpecError
from lorax_spec.types import AdapterRef, MergedRef

#: A number in an adapter's file takes so many bytes at most.
_WIDEST = 8


class Loader:
    """Thread-safe; makes slabs of ``dtype`` of at most ``max_bytes``, page-locked if asked."""

    def __init__(
        self,
        source: Source,
        shape: ModelShape,
        dtype: torch.dtype,
        max_bytes: int,
        page_locked: bool,
    ) -> None:
        self._source = source
        self._shape = shape
        self._dtype = dtype
        self._max_bytes = max_bytes
        self._page_locked = page_locked

    def host(self, ref: Ref) -> str:
        """Who is asked for it; of several hosts one, and nobody where that is a fault."""
        with suppress(LoraxSpecError):
            return next(filter(None, map(self._source.host, parts_of(ref))), "")
        return ""

    def fetch(self, location: Location, ref: Ref) -> None:
        """Raises what the source raises, and AdapterMismatch for what is far too large."""
        for part, named in _parts(location, ref):
            if part.nbytes * self._dtype.itemsize // _WIDEST > self._max_bytes:
                raise AdapterMismatch(
                    f"its files have {part.nbytes} bytes, all adapters together {self._max_bytes}"
                )
            self._source.fetch(part, named)

    def read(self, location: Location, ref: Ref) -> tuple[Location, AdapterWeights]:
        """Weights that are whole, on the host, and where they were read.

        Their fingerprint is another one in every scope, so that whatever goes by it, such as cached
        prefixes, is not shared between them.
        """
        seen, weights = load(self._source, ref, location, lambda one: self._read(one, ref))
        if seen.scope:
            told = f"{weights.fingerprint}\0{seen.scope}"
            weights = replace(weights, fingerprint=hashlib.sha256(told.encode()).hexdigest())
        return seen, weights

    def _read(self, location: Location, ref: Ref) -> AdapterWeights:
        read = [self._read_part(*part) for part in _parts(location, ref)]
        return read[0] if location.recipe is None else merge(read, location.recipe)

    def _read_part(self, location: Location, ref: AdapterRef) -> AdapterWeights:
        with self._source.opened(location, ref) as folder:
            return read_folder(folder, self._shape, self._dtype, self._max_bytes, self._page_locked)


def _parts(location: Location, ref: Ref) -> Iterator[tuple[Location, AdapterRef]]:
    if isinstance(ref, MergedRef):
        yield from zip(location.parts, ref.parts, strict=True)
    else:
        yield location, ref
