"""Adapters from elsewhere, kept on disk: whole ones, within a limit, for several processes.

<folder>/<name>/adapter/    the files, once all of them are there and right
<folder>/<name>/partial/    what a download has so far; the next one goes on from there
<folder>/<name>/bytes       how many it takes, as text; written when a download begins
<folder>/<name>/lock        shared by those who read, exclusive for who writes or removes; its
                            modification time is when the adapter was last used
<folder>/lock               held while somebody makes room
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lorax_spec.errors import AdapterMismatch, Overloaded

_READY, _PARTIAL, _BYTES, _LOCK = "adapter", "partial", "bytes", "lock"
#: Begins the name of what is being removed.
_GONE = ".gone-"


@dataclass(frozen=True)
class _Entry:
    folder: Path
    used: int
    nbytes: int


class DiskCache:
    """Thread-safe, and safe beside other processes on the same folder.

    Holds at most ``limit`` bytes: those that were not used for longest go first, none while it is
    read or written.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self.limit = limit
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """Where the files of ``name``, which is a plain file name, lie once they are there."""
        return self._folder / name / _READY

    def fetch(self, name: str, nbytes: int, fill: Callable[[Path], None]) -> Path:
        """The folder of ``name``; where it is not there, ``fill`` puts its files into a folder.

        Who comes while another fills it waits for that.  ``fill`` may find files of an attempt that
        was broken off.  What it leaves there is taken as it is, where it raises nothing.

        Raises AdapterMismatch for more ``nbytes`` than the cache may hold, Overloaded where
        everything else is in use, and what ``fill`` raises.
        """
        if nbytes > self.limit:
            raise AdapterMismatch(f"its {nbytes} bytes exceed the adapter cache of {self.limit}")
        ready = self.path(name)
        with self._locked(name, fcntl.LOCK_SH):
            if ready.is_dir():
                return ready
        with self._locked(name, fcntl.LOCK_EX):
            if not ready.is_dir():
                self._make_room(name, nbytes)
                partial = ready.with_name(_PARTIAL)
                partial.mkdir(exist_ok=True)
                fill(partial)
                partial.rename(ready)
        return ready

    @contextmanager
    def opened(self, name: str, nbytes: int, fill: Callable[[Path], None]) -> Iterator[Path]:
        """As ``fetch``, and keeps the folder from being removed meanwhile."""
        while True:
            ready = self.fetch(name, nbytes, fill)
            with self._locked(name, fcntl.LOCK_SH):
                if ready.is_dir():
                    yield ready
                    return

    @property
    def nbytes(self) -> int:
        """What all adapters take, those counted in full that are on their way."""
        with (self._folder / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)  # not between one's going and another's coming
            return sum(entry.nbytes for entry in self._entries())

    def _make_room(self, name: str, nbytes: int) -> None:
        with (self._folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left_over in self._folder.glob(_GONE + "*"):
                shutil.rmtree(left_over, ignore_errors=True)
            others = [entry for entry in self._entries() if entry.folder.name != name]
            taken = nbytes + sum(entry.nbytes for entry in others)
            for entry in sorted(others, key=lambda entry: entry.used):
                if taken <= self.limit:
                    break
                if self._remove(entry.folder):
                    taken -= entry.nbytes
            if taken > self.limit:
                raise Overloaded(
                    f"{nbytes} bytes do not fit into the adapter cache of {self.limit} beside what "
                    "is in use"
                )
            (self._folder / name / _BYTES).write_text(str(nbytes))

    def _entries(self) -> list[_Entry]:
        found = []
        for folder in self._folder.iterdir():
            with suppress(OSError):
                used = (folder / _LOCK).stat().st_mtime_ns
                if not folder.name.startswith(_GONE):
                    found.append(_Entry(folder, used, _number(folder / _BYTES)))
        return found

    def _remove(self, folder: Path) -> bool:
        """False where somebody uses it."""
        gone = folder.with_name(_GONE + uuid.uuid4().hex)
        with suppress(FileNotFoundError), (folder / _LOCK).open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
        return True

    @contextmanager
    def _locked(self, name: str, kind: int) -> Iterator[None]:
        path = self._folder / name / _LOCK
        while (lock := _lock(path, kind)) is None:
            pass
        with lock:
            now = time.time_ns()  # the kernel's own clock for this ticks too slowly
            os.utime(path, ns=(now, now))
            yield


def _lock(path: Path, kind: int) -> IO[str] | None:
    """The locked file; None where its folder was removed while we waited."""
    try:
        path.parent.mkdir(exist_ok=True)
        file = path.open("a")
    except (FileNotFoundError, FileExistsError):  # the latter where it is removed just now
        return None
    try:
        fcntl.flock(file, kind)
        if os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file
    except FileNotFoundError:
        pass
    file.close()
    return None


def _number(path: Path) -> int:
    """What the file says; 0 where it is not there, or is not whole."""
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return 0
