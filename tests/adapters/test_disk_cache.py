from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.adapters.disk_cache import DiskCache
from lorax_spec.errors import AdapterMismatch, Overloaded, Unavailable

LIMIT = 100


def fetch(cache: DiskCache, name: str, nbytes: int) -> Path:
    return cache.fetch(name, nbytes, lambda folder: write(folder, name, nbytes))


def write(folder: Path, name: str, nbytes: int) -> None:
    (folder / "file").write_bytes(name[:1].encode() * nbytes)


def sizes(root: Path) -> dict[str, int]:
    """Bytes of the files that are there, by name."""
    return {
        file.parent.parent.name: file.stat().st_size
        for file in root.glob("*/*/file")
        if file.parent.name == "adapter"
    }


def names(cache: DiskCache) -> set[str]:
    return {name for name in "abcdefgh" if cache.path(name).is_dir()}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=30))
def test_the_least_recently_used_go_and_the_limit_holds(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, bool]]
) -> None:
    """Against a list of names, the last used last; with restarts at random."""
    root = tmp_path_factory.mktemp("cache")
    size = {name: 5 + 11 * index for index, name in enumerate("abcdefgh")}
    cache, expected = DiskCache(root, LIMIT), list[str]()
    for name, restart in script:
        if restart:
            cache = DiskCache(root, LIMIT)
        folder = fetch(cache, name, size[name])
        assert (folder / "file").read_bytes() == name.encode() * size[name]
        expected = [one for one in expected if one != name]
        if not any(one == name for one in expected):
            while sum(size[one] for one in expected) + size[name] > LIMIT:
                expected.pop(0)
        expected.append(name)
        assert names(cache) == set(expected)
        assert cache.nbytes == sum(sizes(root).values()) <= LIMIT


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, LIMIT)
    with cache.opened("a", 60, lambda folder: write(folder, "a", 60)) as held:
        fetch(cache, "b", 30)
        fetch(cache, "c", 40)
        assert names(cache) == {"a", "c"} and (held / "file").is_file()
        with pytest.raises(Overloaded):
            fetch(cache, "d", 50)
        with DiskCache(tmp_path, LIMIT).opened("a", 60, lambda folder: None) as again:
            assert again == held
    fetch(cache, "d", 50)
    assert names(cache) == {"d"} | ({"c"} if cache.path("c").is_dir() else set())


def test_what_is_too_large_evicts_nobody(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, LIMIT)
    fetch(cache, "a", LIMIT)
    with pytest.raises(AdapterMismatch):
        fetch(cache, "b", LIMIT + 1)
    assert names(cache) == {"a"}


def test_nothing_is_there_until_all_of_it_is(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, LIMIT)

    def broken_off(folder: Path) -> None:
        (folder / "file").write_bytes(b"half")
        assert not cache.path("a").is_dir()
        raise Unavailable("cut")

    with pytest.raises(Unavailable):
        cache.fetch("a", 10, broken_off)
    assert not cache.path("a").is_dir() and cache.nbytes == 10

    def go_on(folder: Path) -> None:
        assert (folder / "file").read_bytes() == b"half"

    assert (DiskCache(tmp_path, LIMIT).fetch("a", 10, go_on) / "file").read_bytes() == b"half"


def test_what_was_broken_off_makes_room_too(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, LIMIT)
    with pytest.raises(Unavailable):
        cache.fetch("a", 90, lambda folder: (_ for _ in ()).throw(Unavailable("cut")))
    fetch(cache, "b", 20)
    assert cache.nbytes == 20 and sorted(path.name for path in tmp_path.iterdir()) == ["b", "lock"]


def test_a_crowd_downloads_once(tmp_path: Path) -> None:
    caches = [DiskCache(tmp_path, LIMIT) for _ in range(2)]
    filled, lock = list[str](), threading.Lock()

    def fill(folder: Path, name: str) -> None:
        with lock:
            filled.append(name)
        time.sleep(0.02)
        write(folder, name, 30)

    def use(index: int) -> None:
        name = "abc"[index % 3]
        cache = caches[index % 2]
        with cache.opened(name, 30, lambda folder: fill(folder, name)) as folder:
            assert (folder / "file").read_bytes() == name.encode() * 30

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(48)))
    assert sorted(filled) == ["a", "b", "c"]


def test_a_crowd_with_too_little_room_reads_what_it_asked_for(tmp_path: Path) -> None:
    caches = [DiskCache(tmp_path, 70) for _ in range(2)]

    def use(index: int) -> int:
        name = "abcdefgh"[(index * 5) % 8]
        try:
            with caches[index % 2].opened(
                name, 30, lambda folder: write(folder, name, 30)
            ) as folder:
                assert (folder / "file").read_bytes() == name.encode() * 30
                assert caches[0].nbytes <= 70
            return 1
        except Overloaded:
            return 0

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(use, range(200))) > 50
    assert caches[0].nbytes <= 70


def test_a_process_that_dies_leaves_no_lock(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path;"
        "from lorax_spec.adapters.disk_cache import DiskCache;"
        "DiskCache(Path(sys.argv[1]), 100).fetch('a', 60, lambda folder: os._exit(7))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)])
    assert done.returncode == 7
    cache = DiskCache(tmp_path, LIMIT)
    assert not cache.path("a").is_dir() and cache.nbytes == 60
    fetch(cache, "b", 60)
    assert names(cache) == {"b"} and cache.nbytes == 60
