"""Adapters in folders of this machine, and no way out of those folders."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from lorax_spec.adapters.folder import CONFIGS, EXTRAS
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
        self._roots = [(prefix.strip("/"), root.resolve()) for prefix, root in ordered]

    def resolve(self, ref: AdapterRef) -> Location:
        """The adapter's folder and its files as they are now.

        Raises AdapterNotFound, and PermissionDenied for what lies outside the roots or may not be
        read.
        """
        if ref.source not in ("", NAME):
            raise AdapterNotFound(f"adapter source {ref.source!r} is not served here")
        if ref.revision:
            raise AdapterNotFound(f"local adapter {ref.adapter_id!r} has no revisions")
        _require_plain(ref.adapter_id)
        for prefix, root in self._roots:
            name = _below(prefix, ref.adapter_id)
            if name is not None and (files := _adapter_files(root, root / name, ref.adapter_id)):
                return Location(NAME, ref.adapter_id, "", root / name, files)
        raise AdapterNotFound(f"no adapter {ref.adapter_id!r} here")

    def fetch(self, location: Location) -> Path:
        """Nothing to fetch."""
        return location.folder

    def list(self) -> list[str]:
        """Ids of folders with an adapter config, at most four levels below a root; no links."""
        found = {
            "/".join(filter(None, (prefix, name)))
            for prefix, root in self._roots
            for name in _adapter_folders(root, "", _MAX_DEPTH)
        }
        return sorted(found)


def _require_plain(adapter_id: str) -> None:
    path = PurePosixPath(adapter_id)
    if path.is_absolute() or ".." in path.parts or "\0" in adapter_id or "\\" in adapter_id:
        raise PermissionDenied(f"adapter id {adapter_id!r} leaves the adapter folders")
    if not path.parts or str(path) != adapter_id:
        raise AdapterNotFound(f"{adapter_id!r} is no adapter id")


def _below(prefix: str, adapter_id: str) -> str | None:
    if not prefix:
        return adapter_id
    return adapter_id.removeprefix(prefix + "/") if adapter_id.startswith(prefix + "/") else None


def _adapter_files(root: Path, folder: Path, adapter_id: str) -> tuple[FileStamp, ...]:
    """Stamps of an adapter's files, by name; none where the folder is no adapter."""
    try:
        _require_inside(root, folder, adapter_id)
        names = sorted(entry.name for entry in os.scandir(folder) if _is_part(entry.name))
        if not any(name in CONFIGS for name in names):
            return ()
        return tuple(_stamp(root, folder / name, adapter_id) for name in names)
    except OSError as error:
        if error.errno in _ABSENT:
            return ()
        raise PermissionDenied(f"adapter {adapter_id!r} cannot be read: {error.strerror}") from None


def _is_part(name: str) -> bool:
    return name in CONFIGS or name in EXTRAS or name.endswith(".safetensors")


def _stamp(root: Path, path: Path, adapter_id: str) -> FileStamp:
    if path.is_symlink():
        _require_inside(root, path, adapter_id)
    status = path.stat()
    return FileStamp(path.name, status.st_size, status.st_mtime_ns, status.st_ino)


def _require_inside(root: Path, path: Path, adapter_id: str) -> None:
    if not Path(os.path.realpath(path, strict=True)).is_relative_to(root):
        raise PermissionDenied(f"adapter {adapter_id!r} leaves its folder by a link")


def _adapter_folders(folder: Path, name: str, depth: int) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    if name and any(entry.name in CONFIGS for entry in entries):
        yield name
        return
    for entry in entries if depth else ():
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            below = f"{name}/{entry.name}" if name else entry.name
            yield from _adapter_folders(folder / entry.name, below, depth - 1)
