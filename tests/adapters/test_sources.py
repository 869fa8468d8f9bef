from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from lorax_spec.adapters.local_source import LocalSource
from lorax_spec.adapters.source import Location
from lorax_spec.adapters.sources import Sources, SourceSettings, open_sources
from lorax_spec.errors import AdapterNotFound, InvalidArgument, LoraxSpecError, PermissionDenied
from lorax_spec.types import AdapterRef
from tests.adapters.writers import write_lora


class Elsewhere:
    """Has every adapter, once it was looked up, and refuses none."""

    def __init__(self, name: str) -> None:
        self.name = name

    def resolve(self, ref: AdapterRef) -> Location | None:
        return None

    def look_up(self, ref: AdapterRef) -> Location:
        return Location(self.name, ref.adapter_id, ref.revision, Path(), (), commit="1")

    def host(self, ref: AdapterRef) -> str:
        return self.name

    def fetch(self, location: Location, ref: AdapterRef) -> Path:
        return Path(self.name)

    def opened(self, location: Location, ref: AdapterRef) -> AbstractContextManager[Path]:
        return nullcontext(Path(self.name))

    def list(self) -> list[str]:
        return []


def sources(root: Path, default: str = "local", *others: str) -> Sources:
    write_lora(root / "mine")
    write_lora(root / "team" / "lora")
    return Sources(LocalSource({"": root}), {name: Elsewhere(name) for name in others}, default)


def origin(source: Sources, ref: AdapterRef) -> str:
    location = source.resolve(ref) or source.look_up(ref)
    assert source.host(ref) == ("" if location.source == "local" else location.source)
    return location.source


@pytest.mark.parametrize(
    ("ref", "where"),
    [
        (AdapterRef("mine"), "local"),
        (AdapterRef("team/lora"), "local"),
        (AdapterRef("team/other"), "hub"),
        (AdapterRef("mine", revision="main"), "hub"),
        (AdapterRef("mine@main"), "hub"),
        (AdapterRef("mine", "hub"), "hub"),
        (AdapterRef("mine", "local"), "local"),
        (AdapterRef("mine", "s3"), "s3"),
        (AdapterRef("s3://bucket/mine"), "s3"),
        (AdapterRef("s3://bucket/mine", "hub"), "s3"),
        (AdapterRef("gs://bucket/mine"), "s3"),
    ],
)
def test_what_a_name_means(tmp_path: Path, ref: AdapterRef, where: str) -> None:
    source = sources(tmp_path, "hub", "hub", "s3")
    assert origin(source, ref) == where
    assert source.list() == ["mine", "team/lora"]


@pytest.mark.parametrize(
    ("ref", "error"),
    [
        (AdapterRef("other"), AdapterNotFound),
        (AdapterRef("mine", "hub"), AdapterNotFound),
        (AdapterRef("mine", "s3"), AdapterNotFound),
        (AdapterRef("mine", "ftp"), AdapterNotFound),
        (AdapterRef("s3://bucket/mine"), PermissionDenied),
        (AdapterRef("file:///etc"), PermissionDenied),
        (AdapterRef("file:mine"), PermissionDenied),
        (AdapterRef("http://localhost/mine"), PermissionDenied),
        (AdapterRef("../mine"), PermissionDenied),
    ],
)
def test_without_a_flag_nothing_comes_from_elsewhere(
    tmp_path: Path, ref: AdapterRef, error: type[LoraxSpecError]
) -> None:
    """And it is told at once."""
    with pytest.raises(error):
        sources(tmp_path).resolve(ref)


@pytest.mark.parametrize("name", ["../mine", "/etc", "mine/../../x", "mine\0", "a\\b"])
def test_a_way_out_of_the_folders_is_no_name_of_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(PermissionDenied):
        sources(tmp_path, "hub", "hub").resolve(AdapterRef(name))


def test_a_folder_that_comes_or_goes(tmp_path: Path) -> None:
    source = sources(tmp_path, "hub", "hub")
    assert source.resolve(AdapterRef("late")) is None
    write_lora(tmp_path / "late")
    assert source.look_up(AdapterRef("late")).source == "local"
    (tmp_path / "late" / "adapter_config.json").unlink()
    assert source.look_up(AdapterRef("late")).source == "hub"


def test_settings(tmp_path: Path) -> None:
    write_lora(tmp_path / "adapters" / "mine")
    roots, cache = {"": tmp_path / "adapters"}, tmp_path / "cache"
    local = open_sources(SourceSettings(roots, cache=cache))
    assert local.list() == ["mine"] and not cache.exists()
    remote = open_sources(SourceSettings(roots, ("hub", "s3"), ("memory://adapters",), cache=cache))
    assert cache.stat().st_mode & 0o777 == 0o700
    assert remote.resolve(AdapterRef("people/lora")) is None
    assert remote.resolve(AdapterRef("lora", "s3")) is None
    assert remote.host(AdapterRef("lora", "s3")) == "memory://adapters"
    for kinds, urls in ((("ftp",), ()), (("s3",), ()), (("s3",), ("/srv",))):
        with pytest.raises(InvalidArgument):
            open_sources(SourceSettings(roots, kinds, urls, cache))
