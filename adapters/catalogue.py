"""Which version serves an adapter now, and what is pinned.

Plain state without threads: the manager holds a lock around every call.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from functools import lru_cache

from lorax_spec.adapters import infos
from lorax_spec.adapters.lookups import Ref
from lorax_spec.adapters.source import Location
from lorax_spec.adapters.version import Version
from lorax_spec.types import AdapterInfo, AdapterRef, MergedRef

#: More versions than that are not remembered, but for those that somebody holds or has pinned.
_MOST = 8192


class Catalogue:
    """A version that ``find`` does not know begins with ``bytes_per_file_byte`` times the bytes of
    its files as the estimate of its own."""

    def __init__(self, bytes_per_file_byte: float) -> None:
        self._ratio = bytes_per_file_byte
        self._current: dict[Hashable, Version] = {}
        self._pins: set[Hashable] = set()
        self._on_disk = lru_cache(maxsize=4096)(infos.on_disk)

    def __iter__(self) -> Iterator[Version]:
        return iter(self._current.values())

    def named(self, adapter_id: str) -> tuple[Version, ...]:
        """All of this name, whatever their revision or scope."""
        return tuple(
            version
            for version in self._current.values()
            if adapter_id in (version.location.adapter_id, version.ref.adapter_id)
        )

    def find(self, location: Location) -> Version | None:
        """The one that serves what ``location`` is a content of, which may be another content."""
        return self._current.get(location.key)

    def put(self, location: Location, ref: Ref) -> Version:
        """A new one, which serves ``location`` from now on."""
        version = Version(
            _with_needed_tokens(ref, location),
            location,
            int(location.nbytes * self._ratio),
            pinned=location.key in self._pins,
        )
        self._current[location.key] = version
        if len(self._current) > _MOST:
            self._forget_one()
        return version

    def pin(self, version: Version) -> None:
        """Pin it, and whatever replaces it."""
        self._pins.add(version.location.key)
        version.pinned = not version.retired

    def unpin(self, version: Version) -> None:
        self._pins.discard(version.location.key)
        version.pinned = False

    def remove(self, version: Version) -> None:
        """Forget it and its pin."""
        self._pins.discard(version.location.key)
        del self._current[version.location.key]

    def clear(self) -> None:
        self._current.clear()

    def info(self, version: Version) -> AdapterInfo:
        info = infos.in_memory(version, pinned=version.location.key in self._pins)
        if version.kind or version.location.commit or version.location.parts:
            return info
        stored = self.stored(version.location)
        return replace(info, kind=stored.kind, rank=stored.rank, medusa_heads=stored.medusa_heads)

    def stored(self, location: Location) -> AdapterInfo:
        """Of an adapter whose files lie here, by these alone."""
        return self._on_disk(location)

    def _forget_one(self) -> None:
        """The oldest of the versions that are neither in memory nor on their way."""
        for key, version in self._current.items():
            if not (version.loaded or version.task or version.leases or key in self._pins):
                del self._current[key]
                return


def _with_needed_tokens(ref: Ref, location: Location) -> Ref:
    """What is for anyone is fetched as anyone: the token of who came first may end before it."""
    if isinstance(ref, MergedRef):
        pairs = zip(ref.parts, location.parts, strict=True)
        return replace(ref, parts=tuple(_needing(*pair) for pair in pairs))
    return _needing(ref, location)


def _needing(ref: AdapterRef, location: Location) -> AdapterRef:
    return ref if location.scope else replace(ref, api_token="")
