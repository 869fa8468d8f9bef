"""Adapter folders that look as they did: a glance at each file instead of a walk through links."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass

from lorax_spec.adapters.source import Location

#: Folders changed less than so many seconds ago may change again within one tick of their clock.
_AT_REST = 2.0
_MOST = 4096


@dataclass(frozen=True)
class _Way:
    """The folders below the root on the way to an adapter's, by mode and inode, and when that one
    last got or lost a file."""

    folders: tuple[tuple[int, int], ...]
    changed_ns: int


class SeenFolders:
    """Any thread may call."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[_Way, Location]] = {}

    def location(self, root: str, name: str) -> Location | None:
        """What the folder ``name`` below ``root`` meant, if nothing in it has changed."""
        known = self._seen.get((root, name))
        if known is None:
            return None
        way, location = known
        try:
            if _way(root, name) == way and all(
                _looks(f"{root}/{name}/{file.name}", file.size, file.mtime_ns, file.inode)
                for file in location.files
            ):
                return location
        except OSError:
            pass
        return None

    def look(self, root: str, name: str) -> Callable[[Location], None]:
        """To be called before the folder is read, and what this gives with what was found."""
        try:
            way = _way(root, name)
        except OSError:
            way = None

        def keep(location: Location) -> None:
            if way is not None and self._clock() - way.changed_ns / 1e9 > _AT_REST:
                if len(self._seen) >= _MOST:
                    self._seen.clear()
                self._seen[root, name] = way, location

        return keep


def _way(root: str, name: str) -> _Way | None:
    """None where a link, or anything else that is no folder, lies on it."""
    path, folders, changed_ns = root, [], 0
    for part in name.split("/"):
        path = f"{path}/{part}"
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            return None
        folders.append((status.st_mode, status.st_ino))
        changed_ns = status.st_mtime_ns
    return _Way(tuple(folders), changed_ns)


def _looks(path: str, size: int, mtime_ns: int, inode: int) -> bool:
    """Whether a file, which is no link, still looks so."""
    status = os.lstat(path)
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_mtime_ns == mtime_ns
        and status.st_size == size
        and status.st_ino == inode
    )
