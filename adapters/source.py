"""Where adapters come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lorax_spec.types import AdapterRef


@dataclass(frozen=True)
class FileStamp:
    """Enough to see, without reading it, that a file was changed or replaced."""

    name: str
    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True)
class Location:
    """One content of one adapter: who it is, where it lies, and what its files look like.

    Equal locations have equal contents.  ``key`` names the adapter whatever its content.
    """

    source: str
    adapter_id: str
    revision: str
    folder: Path
    files: tuple[FileStamp, ...]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.source, self.adapter_id, self.revision

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors on disk."""
        return sum(file.size for file in self.files if file.name.endswith(".safetensors"))


class Source(Protocol):
    def resolve(self, ref: AdapterRef) -> Location:
        """Which adapter ``ref`` means, and its content now.

        Called by the step loop for every request, so it may look at files but not at the network.
        Raises AdapterNotFound, or PermissionDenied where the caller may not use it.
        """

    def fetch(self, location: Location) -> Path:
        """The folder with the adapter's files; may take its time, on a thread of its own.

        Fetching what was fetched already is cheap.
        """

    def list(self) -> list[str]:
        """Ids of the adapters that lie here, at the cost of looking at folders."""
