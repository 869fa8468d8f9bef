"""Adapters in folders of this machine, and no way out of those folders."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from lorax_spec.adapters.files import is_config, is_part
from lorax_spec.adapters.seen_folders import SeenFolders
from lorax_spec.adapters.source import FileStamp, Location
from lorax_spec.errors import AdapterNotFound, PermissionDenied
from lorax_spec.types import AdapterRef

NAME = "local"
_MAX_DEPTH = 4
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


class LocalSource:
    """Folders below roots.

    ``roots`` maps id prefixes to folders: with ``{"demo": bundle, "": directory}`` the id
    ``demo/pirate`` means ``bundle/pirate`` if that is there, and every other id a folder below
    ``directory``.  The longest prefix is tried first.
    """

    def __init__(self, roots: Mapping[str, Path]) -> None:
        ordered = sorted(roots.items(), key=lambda item: len(item[0]), reverse=True)
        self._roots = [(prefix.strip("/"), str(root.resolve())) for prefix, root in ordered]
        self._seen = SeenFolders()

    def resolve(self, ref: AdapterRef) -> Location:
        """The adapter's folder and its files as they are now.

        Raises AdapterNotFound, and PermissionDenied for what lies outside the roots or may not be
        read.
        """
        if ref.source not in ("", NAME):
            raise AdapterNotFound(f"adapter source {ref.source!r} is not served here")
        if ref.revision:
            raise AdapterNotFound(f"local adapter {ref.adapter_id!r} has no revisions")
        require_plain(ref.adapter_id)
        for prefix, root in self._roots:
            name = _below(prefix, ref.adapter_id)
            if name is not None and (found := self._location(root, name, ref.adapter_id)):
                return found
        raise AdapterNotFound(f"no adapter {ref.adapter_id!r} here")

    def _location(self, root: str, name: str, adapter_id: str) -> Location | None:
        if known := self._seen.location(root, name):
            return known
        keep = self._seen.look(root, name)
        files = _adapter_files(root, name, adapter_id)
        if not files:
            return None
        location = Location(NAME, adapter_id, "", Path(root, name), files)
        keep(location)
        return location

    def look_up(self, ref: AdapterRef) -> Location:
        """As ``resolve``, which always knows."""
        return self.resolve(ref)

    def host(self, ref: AdapterRef) -> str:
        """This machine."""
        return ""

    def fetch(self, location: Location, ref: AdapterRef) -> Path:
        """Nothing to fetch."""
        return location.folder

    def opened(self, location: Location, ref: AdapterRef) -> AbstractContextManager[Path]:
        """Nothing is dropped here."""
        return nullcontext(self.fetch(location, ref))

    def list(self) -> list[str]:
        """Ids of folders with an adapter config, at most four levels below a root; no links."""
        found = {
            "/".join(filter(None, (prefix, name)))
            for prefix, root in self._roots
            for name in _adapter_folders(root, "", _MAX_DEPTH)
        }
        return sorted(found)


def require_plain(adapter_id: str) -> None:
    """Raises PermissionDenied for an id that leaves its folder, AdapterNotFound for one that is
    not written as ids are."""
    parts = adapter_id.split("/")
    if adapter_id.startswith("/") or ".." in parts or "\0" in adapter_id or "\\" in adapter_id:
        raise PermissionDenied(f"adapter id {adapter_id!r} leaves the adapter folders")
    if "" in parts or "." in parts:
        raise AdapterNotFound(f"{adapter_id!r} is no adapter id")


def _below(prefix: str, adapter_id: str) -> str | None:
    if not prefix:
        return adapter_id
    return adapter_id.removeprefix(prefix + "/") if adapter_id.startswith(prefix + "/") else None


def _adapter_files(root: str, name: str, adapter_id: str) -> tuple[FileStamp, ...]:
    """Stamps of an adapter's files, by name; none where the folder is no adapter."""
    try:
        folder = _folder_inside(root, name, adapter_id)
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry) for entry in entries if is_part(entry.name))
        if not any(is_config(file) for file, _ in found):
            return ()
        return tuple(_stamp(root, entry, adapter_id) for _, entry in found)
    except OSError as error:
        if error.errno in _ABSENT:
            return ()
        raise PermissionDenied(f"adapter {adapter_id!r} cannot be read: {error.strerror}") from None


def _stamp(root: str, entry: os.DirEntry[str], adapter_id: str) -> FileStamp:
    if entry.is_symlink():
        _require_inside(root, entry.path, adapter_id)
    status = entry.stat()
    return FileStamp(entry.name, status.st_size, status.st_mtime_ns, status.st_ino)


def _folder_inside(root: str, name: str, adapter_id: str) -> str:
    """The folder ``name`` below ``root``.

    ``root`` is resolved and ``name`` plain, so only a link on the way could lead out; where there
    is none, the long way of resolving them all is spared.
    """
    folder = root
    for part in name.split("/"):
        folder = f"{folder}/{part}"
        if stat.S_ISLNK(os.lstat(folder).st_mode):
            _require_inside(root, f"{root}/{name}", adapter_id)
            return f"{root}/{name}"
    return folder


def _require_inside(root: str, path: str, adapter_id: str) -> None:
    target = os.path.realpath(path, strict=True)
    if os.path.commonpath((root, target)) != root:
        raise PermissionDenied(f"adapter {adapter_id!r} leaves its folder by a link")


def _adapter_folders(folder: str, name: str, depth: int) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    if name and any(is_config(entry.name) for entry in entries):
        yield name
        return
    for entry in entries if depth else ():
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            below = f"{name}/{entry.name}" if name else entry.name
            yield from _adapter_folders(entry.path, below, depth - 1)
