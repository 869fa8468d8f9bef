"""A folder that was seen before is never taken for what it no longer is."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.adapters.local_source import LocalSource
from lorax_spec.adapters.seen_folders import SeenFolders
from lorax_spec.errors import LoraxSpecError
from lorax_spec.types import AdapterRef

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
#: Longer than a tick of the clock that stamps folders.
_TICK = 0.012


def fill(folder: Path, size: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text("{}")
    (folder / WEIGHTS).write_bytes(b"x" * size)


def rewrite(folder: Path) -> None:
    fill(folder, size=5)


def rewrite_as_long(folder: Path) -> None:
    with (folder / WEIGHTS).open("r+b") as file:
        file.write(b"y")


def replace(folder: Path) -> None:
    """By another file of the same size and time."""
    new, old = folder / "new", folder / WEIGHTS
    shutil.copy2(old, new)
    new.replace(old)


def replace_and_hide_it(folder: Path) -> None:
    """With the folder's old time, as programs that unpack archives do."""
    before = folder.stat().st_mtime_ns
    replace(folder)
    os.utime(folder, ns=(before, before))


def grow_and_hide_it(folder: Path) -> None:
    file = folder / WEIGHTS
    before = file.stat()
    file.write_bytes(b"x" * (before.st_size + 1))
    os.utime(file, ns=(before.st_mtime_ns, before.st_mtime_ns))


def add(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{}")


def add_what_does_not_count(folder: Path) -> None:
    (folder / "notes.txt").write_text("")


def drop(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def drop_config(folder: Path) -> None:
    (folder / CONFIG).unlink()


def remove(folder: Path) -> None:
    folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)


def lead_out(folder: Path) -> None:
    """Move the folder out of the root and leave a link to it."""
    outside = folder.parent.parent.parent / f"outside {time.monotonic_ns()}"
    folder.rename(outside)
    folder.symlink_to(outside)


def lead_elsewhere_inside(folder: Path) -> None:
    """A link may lead to another folder of the root."""
    inside = folder.parent / f"inside {time.monotonic_ns()}"
    folder.rename(inside)
    folder.symlink_to(inside)


def lead_out_above(folder: Path) -> None:
    outside = folder.parent.parent.parent / f"outside {time.monotonic_ns()}"
    folder.parent.rename(outside)
    folder.parent.symlink_to(outside)


def link_a_file(folder: Path) -> None:
    outside = folder.parent.parent.parent / f"outside {time.monotonic_ns()}"
    (folder / WEIGHTS).rename(outside)
    (folder / WEIGHTS).symlink_to(outside)


def close(folder: Path) -> None:
    folder.chmod(0o111)


def leave(folder: Path) -> None:
    pass


CHANGES = [
    rewrite,
    rewrite_as_long,
    replace,
    replace_and_hide_it,
    grow_and_hide_it,
    add,
    add_what_does_not_count,
    drop,
    drop_config,
    remove,
    lead_out,
    lead_elsewhere_inside,
    lead_out_above,
    link_a_file,
    close,
    leave,
]


def meaning(source: LocalSource) -> object:
    try:
        return source.resolve(AdapterRef("org/a"))
    except LoraxSpecError as error:
        return type(error), error.message


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=5))
def test_what_was_seen_means_what_a_fresh_look_says(
    changes: list[Callable[[Path], None]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory).resolve() / "root"
        folder = root / "org" / "a"
        fill(folder)
        source = LocalSource({"": root})
        # Every folder has come to rest, by this clock.
        source._seen = SeenFolders(lambda: time.time() + 60)
        for change in changes:
            meaning(source)
            time.sleep(_TICK)
            if folder.is_dir():
                with suppress(FileNotFoundError):
                    change(folder)
            else:
                fill(folder)
            assert meaning(source) == meaning(LocalSource({"": root})), change.__name__
        if folder.exists():
            folder.chmod(0o755)


def test_a_folder_at_rest_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "org" / "a")
    source = LocalSource({"": tmp_path})
    read: list[str] = []
    scandir = os.scandir

    def counted(path: str) -> object:
        read.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    first = meaning(source)
    assert meaning(source) == first
    assert len(read) == 2  # it was made a moment ago
    os.utime(tmp_path / "org" / "a", (0, 0))
    assert meaning(source) == meaning(source) == first
    assert len(read) == 3


def test_folders_seen_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorax_spec.adapters.seen_folders._MOST", 2)
    source = LocalSource({"": tmp_path})
    for name in "abcde":
        fill(tmp_path / name)
        os.utime(tmp_path / name, (0, 0))
        source.resolve(AdapterRef(name))
        assert len(source._seen._seen) <= 2
