"""A memory that adapters lie in."""

from __future__ import annotations

from collections.abc import Iterator

from lorax_spec.adapters.version import Version


class Tier:
    """Versions, least recently used first, and the bytes they take together."""

    def __init__(self) -> None:
        self.bytes = 0
        self._sizes: dict[Version, int] = {}

    def __contains__(self, version: Version) -> bool:
        return version in self._sizes

    def __iter__(self) -> Iterator[Version]:
        return iter(tuple(self._sizes))

    def __len__(self) -> int:
        return len(self._sizes)

    def put(self, version: Version) -> None:
        """Count ``version``, of its present ``nbytes``, as the most recently used."""
        self.drop(version)
        self._sizes[version] = version.nbytes
        self.bytes += version.nbytes

    def drop(self, version: Version) -> None:
        """Count it no more, if it was counted."""
        self.bytes -= self._sizes.pop(version, 0)

    def touch(self, version: Version) -> None:
        """Make it the most recently used."""
        if version in self._sizes:
            self._sizes[version] = self._sizes.pop(version)
