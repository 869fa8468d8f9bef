"""Where adapters come from."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lorax_spec.types import AdapterRef

if TYPE_CHECKING:
    from lorax_spec.adapters.merging import MergeRecipe

#: What ``Location.source`` says of adapters that are merged of others.
MERGED = "merged"
_WEIGHTS = (".safetensors", ".pt")


@dataclass(frozen=True)
class FileStamp:
    """Enough to see, without reading it, that a file was changed or replaced.

    ``mtime_ns`` and ``inode`` are those of files on this machine, 0 for others.  ``digest`` is what
    the source says of the content, as ``sha256:...``, ``blob:...`` (git's SHA-1) or ``md5:...``,
    and empty where it says nothing that could be checked.
    """

    name: str
    size: int
    mtime_ns: int = 0
    inode: int = 0
    digest: str = ""


@dataclass(frozen=True)
class Location:
    """One content of one adapter: who it is, where it lies, and what its files look like.

    Equal locations have equal contents.  ``revision`` is as asked for and ``commit`` what it
    resolved to; files under a ``commit`` never change, those without one may be rewritten.
    ``scope`` is empty where anyone may read the adapter, else it stands for the credentials it was
    found with.  An adapter merged of others has ``parts`` and a ``recipe`` and no folder.

    ``key`` names the adapter whatever its content.
    """

    source: str
    adapter_id: str
    revision: str
    folder: Path
    files: tuple[FileStamp, ...]
    commit: str = ""
    scope: str = ""
    parts: tuple[Location, ...] = ()
    recipe: MergeRecipe | None = None

    @property
    def key(self) -> Hashable:
        own = (self.source, self.adapter_id, self.revision, self.scope)
        return (*own, tuple(part.key for part in self.parts), self.recipe) if self.parts else own

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors on disk."""
        own = sum(file.size for file in self.files if file.name.endswith(_WEIGHTS))
        return own + sum(part.nbytes for part in self.parts)


def scope_of(credentials: str) -> str:
    """What stands for ``credentials`` where they must not be read; empty for none."""
    return hashlib.sha256(f"scope\0{credentials}".encode()).hexdigest() if credentials else ""


class Source(Protocol):
    """Any thread may call."""

    def resolve(self, ref: AdapterRef) -> Location | None:
        """Which adapter ``ref`` means, and its content now; None where it has to be looked up.

        Called by the step loop for every request, so it may look at files but not at the network.
        Raises AdapterNotFound, or PermissionDenied where the caller may not use it.
        """

    def look_up(self, ref: AdapterRef) -> Location:
        """As ``resolve``, with all the time it takes; raises Unavailable where nobody answers."""

    def host(self, ref: AdapterRef) -> str:
        """Who is asked for ``ref``: work for one host never waits for another host.  Empty: this
        machine.  There are few hosts, whatever callers name."""

    def fetch(self, location: Location, ref: AdapterRef) -> Path:
        """The folder with the adapter's files; may take its time, on a thread of its own.

        Fetching what was fetched already is cheap.  Raises Unavailable, Overloaded, or what
        ``look_up`` raises.
        """

    def opened(self, location: Location, ref: AdapterRef) -> AbstractContextManager[Path]:
        """As ``fetch``, and keeps the files from being dropped meanwhile."""

    def list(self) -> list[str]:
        """Ids of the adapters that lie here, at the cost of looking at folders."""
