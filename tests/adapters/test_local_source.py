from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.adapters.local_source import LocalSource
from lorax_spec.errors import AdapterNotFound, LoraxSpecError, PermissionDenied
from lorax_spec.types import AdapterRef
from tests.adapters.writers import write_lora, write_medusa


@pytest.fixture
def source(tmp_path: Path) -> LocalSource:
    write_lora(tmp_path / "bundle" / "pirate")
    write_lora(tmp_path / "root" / "mine")
    write_medusa(tmp_path / "root" / "team" / "a" / "heads")
    write_lora(tmp_path / "root" / "demo" / "pirate")
    write_lora(tmp_path / "secret" / "other")
    (tmp_path / "root" / "notes").mkdir()
    return LocalSource({"demo": tmp_path / "bundle", "": tmp_path / "root"})


def test_ids_are_paths_below_their_root(source: LocalSource, tmp_path: Path) -> None:
    def folder(adapter_id: str) -> Path:
        return source.fetch(source.resolve(AdapterRef(adapter_id)), AdapterRef(adapter_id))

    assert folder("mine") == tmp_path / "root/mine"
    assert folder("team/a/heads") == tmp_path / "root/team/a/heads"
    assert folder("demo/pirate") == tmp_path / "bundle/pirate"
    assert source.resolve(AdapterRef("mine", "local")) == source.resolve(AdapterRef("mine"))


def test_list(source: LocalSource) -> None:
    assert source.list() == ["demo/pirate", "mine", "team/a/heads"]
    for adapter_id in source.list():
        source.resolve(AdapterRef(adapter_id))


@pytest.mark.parametrize(
    "ref",
    [
        AdapterRef("nothing"),
        AdapterRef("notes"),
        AdapterRef("team"),
        AdapterRef("mine/adapter_config.json"),
        AdapterRef(""),
        AdapterRef("."),
        AdapterRef("./mine"),
        AdapterRef("mine/"),
        AdapterRef("team//a/heads"),
        AdapterRef("x" * 5000),
        AdapterRef("demo"),
        AdapterRef("mine", "hub"),
        AdapterRef("mine", revision="main"),
    ],
)
def test_not_found(source: LocalSource, ref: AdapterRef) -> None:
    with pytest.raises(AdapterNotFound):
        source.resolve(ref)


@pytest.mark.parametrize(
    "adapter_id",
    [
        "../secret/other",
        "mine/../../secret/other",
        "..",
        "mine/..",
        "demo/../../secret/other",
        "/etc",
        "/",
        "//etc",
        "mine\x00",
        "..\\secret",
    ],
)
def test_no_way_out_by_name(source: LocalSource, adapter_id: str) -> None:
    with pytest.raises(PermissionDenied):
        source.resolve(AdapterRef(adapter_id))


def test_an_absolute_path_into_the_root_is_no_id(source: LocalSource, tmp_path: Path) -> None:
    with pytest.raises(PermissionDenied):
        source.resolve(AdapterRef(str(tmp_path / "root" / "mine")))


def test_no_way_out_by_link(source: LocalSource, tmp_path: Path) -> None:
    root, secret = tmp_path / "root", tmp_path / "secret"
    (root / "whole").symlink_to(secret / "other")
    (root / "above").symlink_to(secret)
    (root / "weights").mkdir()
    (root / "weights" / "adapter_config.json").write_text("{}")
    weights = root / "weights" / "adapter_model.safetensors"
    weights.symlink_to(secret / "other" / "adapter_model.safetensors")
    config = write_lora(root / "config") / "adapter_config.json"
    config.unlink()
    config.symlink_to(secret / "other" / "adapter_config.json")
    for adapter_id in ("whole", "above/other", "weights", "config"):
        with pytest.raises(PermissionDenied, match=adapter_id) as caught:
            source.resolve(AdapterRef(adapter_id))
        assert "secret" not in caught.value.message
    assert not {"whole", "above/other"} & set(source.list())


def test_links_inside_a_root_are_fine(source: LocalSource, tmp_path: Path) -> None:
    (tmp_path / "root" / "alias").symlink_to(tmp_path / "root" / "mine")
    assert source.resolve(AdapterRef("alias")).folder == tmp_path / "root/alias"
    (tmp_path / "link").symlink_to(tmp_path / "root")
    LocalSource({"": tmp_path / "link"}).resolve(AdapterRef("mine"))


def test_links_in_a_circle(source: LocalSource, tmp_path: Path) -> None:
    (tmp_path / "root" / "a").symlink_to(tmp_path / "root" / "b")
    (tmp_path / "root" / "b").symlink_to(tmp_path / "root" / "a")
    with pytest.raises(AdapterNotFound):
        source.resolve(AdapterRef("a"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(source: LocalSource, tmp_path: Path) -> None:
    (tmp_path / "root" / "mine").chmod(0)
    with pytest.raises(PermissionDenied):
        source.resolve(AdapterRef("mine"))


def test_every_change_of_the_files_is_seen(source: LocalSource, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "mine"
    weights = folder / "adapter_model.safetensors"
    seen = [source.resolve(AdapterRef("mine"))]
    assert source.resolve(AdapterRef("mine")) == seen[0]
    os.utime(weights, ns=(1, 1))
    seen.append(source.resolve(AdapterRef("mine")))
    content = weights.read_bytes()
    (folder / "new").write_bytes(content)
    os.utime(folder / "new", ns=(1, 1))
    (folder / "new").replace(weights)
    seen.append(source.resolve(AdapterRef("mine")))
    weights.write_bytes(content + b"x")
    seen.append(source.resolve(AdapterRef("mine")))
    (folder / "more.safetensors").write_bytes(b"")
    seen.append(source.resolve(AdapterRef("mine")))
    assert len(set(seen)) == 5
    assert len({location.key for location in seen}) == 1


@given(st.text(st.sampled_from("./\\ab\0~\u2025"), max_size=12))
def test_no_name_leaves_the_roots(name: str) -> None:
    source = LocalSource({"": Path("/work"), "demo": Path("/usr")})
    try:
        folder = source.resolve(AdapterRef(name)).folder
    except LoraxSpecError:
        return
    assert folder.resolve().is_relative_to("/work")
