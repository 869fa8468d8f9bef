"""The hub's own client against a hub on the loopback."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorax_spec.adapters.disk_cache import DiskCache
from lorax_spec.adapters.hub_source import HubSource
from lorax_spec.adapters.known import Known
from lorax_spec.adapters.retry import Retry
from lorax_spec.adapters.source import Location
from lorax_spec.errors import (
    AdapterNotFound,
    InvalidArgument,
    LoraxSpecError,
    PermissionDenied,
    Unavailable,
)
from lorax_spec.types import AdapterRef
from tests.adapters.executors import Clock
from tests.standins.hub import StandInHub

FILES = {
    "adapter_config.json": json.dumps({"peft_type": "LORA", "r": 4}).encode(),
    "adapter_model.safetensors": b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(2000)),
    "README.md": b"not an adapter's",
    "optimizer.pt": b"nor this",
    "checkpoint-1/adapter_model.safetensors": b"nor that",
}
PARTS = {"adapter_config.json", "adapter_model.safetensors"}
NAME = "people/lora"
QUICK = Retry(first=0.001, longest=0.002)


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says: the stand-in is on this machine."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub() as hub:
        hub.repository(NAME).push(FILES)
        yield hub


class Caller:
    """A source with a clock of its own."""

    def __init__(self, hub: StandInHub, folder: Path, limit: int = 10**9) -> None:
        self.clock = Clock()
        self.cache = DiskCache(folder, limit)
        known = Known(clock=self.clock)
        self.source = HubSource(self.cache, endpoint=hub.endpoint, retry=QUICK, known=known)

    def find(self, ref: AdapterRef) -> Location:
        return self.source.resolve(ref) or self.source.look_up(ref)

    def fetch(self, ref: AdapterRef) -> dict[str, bytes]:
        folder = self.source.fetch(self.find(ref), ref)
        return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def caller(hub: StandInHub, tmp_path: Path) -> Caller:
    return Caller(hub, tmp_path / "cache")


def test_an_adapters_files_come_and_no_others(caller: Caller, hub: StandInHub) -> None:
    ref = AdapterRef(NAME)
    assert caller.source.resolve(ref) is None and not hub.seen
    location = caller.find(ref)
    assert location.commit == hub.repositories[NAME].branches["main"] and location.scope == ""
    assert caller.fetch(ref) == {name: FILES[name] for name in PARTS}
    asked = len(hub.seen)
    assert caller.fetch(ref) and len(hub.seen) == asked
    with caller.source.opened(location, ref) as folder:
        assert {file.name for file in folder.iterdir()} == PARTS


def test_revisions(caller: Caller, hub: StandInHub) -> None:
    repository = hub.repositories[NAME]
    old = repository.branches["main"]
    changed = {**FILES, "adapter_config.json": b"{}"}
    new = repository.push(changed, "dev/x")
    for ref in (
        AdapterRef(NAME, revision="dev/x"),
        AdapterRef(f"{NAME}@dev/x"),
        AdapterRef(f"{NAME}@{new}"),
    ):
        assert caller.fetch(ref)["adapter_config.json"] == b"{}"
        assert (caller.find(ref).adapter_id, caller.find(ref).commit) == (NAME, new)
    assert caller.find(AdapterRef(NAME)).commit == old
    assert caller.find(AdapterRef(f"{NAME}@main", revision="main")).commit == old
    with pytest.raises(InvalidArgument) as caught:
        caller.find(AdapterRef(f"{NAME}@main", revision="dev/x"))
    assert caught.value.field == "adapter_revision"
    with pytest.raises(AdapterNotFound):
        caller.find(AdapterRef(NAME, revision="gone"))


def test_a_branch_that_moves_is_seen_after_a_while_and_a_commit_never_asked_again(
    caller: Caller, hub: StandInHub
) -> None:
    repository = hub.repositories[NAME]
    old = repository.branches["main"]
    branch, commit = AdapterRef(NAME), AdapterRef(NAME, revision=old)
    first = caller.find(branch)
    caller.find(commit)
    new = repository.push({**FILES, "adapter_config.json": b"{}"})
    assert caller.source.resolve(branch) == first
    caller.clock.now += 61
    asked = len(hub.seen)
    assert caller.source.resolve(branch) is None
    assert caller.source.resolve(commit) is not None and len(hub.seen) == asked
    second = caller.find(branch)
    assert second.commit == new and second.key == first.key and second != first
    assert caller.fetch(branch)["adapter_config.json"] == b"{}"
    assert caller.fetch(commit)["adapter_config.json"] == FILES["adapter_config.json"]


def test_private_adapters_are_for_their_readers(caller: Caller, hub: StandInHub) -> None:
    hub.repository("people/own", private=True, readers={"right", "also"}).push(FILES)
    hub.tokens.add("other")
    mine, also = (AdapterRef("people/own", api_token=token) for token in ("right", "also"))
    location = caller.find(mine)
    assert location.scope and "right" not in location.scope
    assert caller.fetch(mine)
    for token, error in (
        ("", PermissionDenied),
        ("wrong", PermissionDenied),
        ("other", AdapterNotFound),
    ):
        ref = AdapterRef("people/own", api_token=token)
        with pytest.raises(error):
            caller.find(ref)
        with pytest.raises(error):
            caller.source.resolve(ref)
    assert caller.find(also).scope not in ("", location.scope)
    assert caller.find(also).key != location.key
    downloaded = len(hub.downloads())
    assert caller.fetch(also) and len(hub.downloads()) == downloaded


def test_a_token_that_expires_is_found_out(caller: Caller, hub: StandInHub) -> None:
    own = hub.repository("people/own", private=True, readers={"right"})
    ref = AdapterRef("people/own", revision=own.push(FILES), api_token="right")
    caller.fetch(ref)
    own.readers.clear()
    hub.tokens.clear()
    caller.clock.now += 61
    assert caller.source.resolve(ref) is None
    with pytest.raises(PermissionDenied):
        caller.find(ref)


def test_gated_adapters_are_listed_to_all_but_read_by_few(caller: Caller, hub: StandInHub) -> None:
    hub.repository("people/gated", gated=True, readers={"right"}).push(FILES)
    hub.tokens.add("other")
    for token in ("", "other"):
        with pytest.raises(PermissionDenied):
            caller.find(AdapterRef("people/gated", api_token=token))
    assert caller.find(AdapterRef("people/gated", api_token="right")).scope


def test_public_adapters_have_no_scope_whatever_the_token(caller: Caller, hub: StandInHub) -> None:
    hub.tokens.add("other")
    location = caller.find(AdapterRef(NAME, api_token="other"))
    assert location.scope == "" and caller.source.resolve(AdapterRef(NAME)) == location


def test_a_token_does_not_travel_to_another_host(caller: Caller, hub: StandInHub) -> None:
    hub.cdn = True
    hub.repository("people/own", private=True, readers={"right"}).push(FILES)
    assert caller.fetch(AdapterRef("people/own", api_token="right")).keys() == PARTS
    elsewhere = [one for one in hub.seen if one.path.startswith("/cdn/")]
    assert elsewhere and not any(one.token for one in elsewhere)
    assert all(one.token == "right" for one in hub.downloads())


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cut_after=st.integers(1, 70_000), cuts=st.integers(1, 6), restart=st.booleans())
def test_what_was_cut_off_goes_on_and_ends_with_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, cut_after: int, cuts: int, restart: bool
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    with StandInHub() as hub:
        hub.repository(NAME).push(FILES)
        hub.cut_after, hub.cuts = cut_after, cuts
        ref = AdapterRef(NAME)
        if restart:
            first = Caller(hub, folder)
            first.source._retry = Retry(attempts=1)
            try:
                first.fetch(ref)
            except Unavailable:
                assert not first.find(ref).folder.exists()
        found = Caller(hub, folder).fetch(ref)
        assert found == {name: FILES[name] for name in PARTS}
        assert hub.bytes_sent < 1.5 * sum(map(len, FILES.values())) + 2000 * len(hub.seen)
        weights = [one for one in hub.downloads() if one.path.endswith(".safetensors")]
        assert all(later.begin > 0 for later in weights[1:])


def test_a_hub_that_knows_no_ranges(caller: Caller, hub: StandInHub) -> None:
    hub.cut_after, hub.cuts, hub.ranges = 30_000, 2, False
    assert caller.fetch(AdapterRef(NAME)) == {name: FILES[name] for name in PARTS}
    weights = [one.begin for one in hub.downloads() if one.path.endswith(".safetensors")]
    assert weights == [0, 30_000, 30_000]


@pytest.mark.parametrize("file", sorted(PARTS))
@pytest.mark.parametrize("how", ["flipped", "short", "long", "empty"])
def test_damaged_files_are_never_taken(
    caller: Caller, hub: StandInHub, file: str, how: str
) -> None:
    content = FILES[file]
    hub.spoil[file] = {
        "flipped": content[:7] + bytes([content[7] ^ 1]) + content[8:],
        "short": content[:-1],
        "long": content + b"x",
        "empty": b"",
    }[how]
    ref = AdapterRef(NAME)
    with pytest.raises(Unavailable, match=file):
        caller.fetch(ref)
    folder = caller.find(ref).folder
    assert not folder.exists() and file not in {one.name for one in folder.parent.glob("*/*")}
    hub.spoil.clear()
    assert caller.fetch(ref)[file] == content


def test_short_outages_are_sat_out(caller: Caller, hub: StandInHub) -> None:
    hub.failures = 4
    assert caller.fetch(AdapterRef(NAME)).keys() == PARTS
    assert len(hub.questions()) == 5


@pytest.mark.parametrize("status", [500, 503, 429])
def test_long_outages_are_told_and_remembered(caller: Caller, hub: StandInHub, status: int) -> None:
    hub.failures, hub.status = 10**9, status
    ref = AdapterRef(NAME)
    with pytest.raises(Unavailable):
        caller.find(ref)
    asked = len(hub.seen)
    with pytest.raises(Unavailable):
        caller.source.resolve(ref)
    assert len(hub.seen) == asked == 5
    hub.failures = 0
    caller.clock.now += 4
    assert caller.find(ref)


def test_a_hub_that_is_not_there(tmp_path: Path) -> None:
    with StandInHub() as hub:
        pass
    with pytest.raises(Unavailable, match="reached"):
        Caller(hub, tmp_path).find(AdapterRef(NAME))


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("people/none", PermissionDenied),  # what the hub says of it to nobody in particular
        ("../etc", PermissionDenied),
        ("people/../lora", PermissionDenied),
        ("/etc/passwd", PermissionDenied),
        ("people/lora/more", AdapterNotFound),
        ("people/lora@", AdapterNotFound),
        ("people/lora?x=1", AdapterNotFound),
        ("people/lora#x", AdapterNotFound),
        ("http:x", AdapterNotFound),
        ("", AdapterNotFound),
        ("people/" + "x" * 200, AdapterNotFound),
        ("people/lora@" + "x" * 300, AdapterNotFound),
    ],
)
def test_names_that_are_none(
    caller: Caller, hub: StandInHub, name: str, error: type[LoraxSpecError]
) -> None:
    with pytest.raises(error):
        caller.find(AdapterRef(name))


def test_no_adapter_in_a_repository(caller: Caller, hub: StandInHub) -> None:
    hub.repository("people/text").push({"README.md": b"", "model.safetensors": b""})
    with pytest.raises(AdapterNotFound, match="no adapter"):
        caller.find(AdapterRef("people/text"))


@pytest.mark.slow
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.text(st.sampled_from("./\\ab\0\n:~"), min_size=1, max_size=12).map(
            lambda name: name + ".safetensors"
        ),
        max_size=6,
        unique=True,
    )
)
def test_no_file_name_leaves_the_cache(
    tmp_path_factory: pytest.TempPathFactory, hub: StandInHub, names: list[str]
) -> None:
    root = tmp_path_factory.mktemp("root")
    hub.repository("people/bad").push({"adapter_config.json": b"{}", **dict.fromkeys(names, b"x")})
    caller = Caller(hub, root / "cache")
    location = caller.find(AdapterRef("people/bad"))
    assert all(Path(file.name).name == file.name for file in location.files)
    with suppress(AdapterNotFound):  # the stand-in does not find some odd names
        caller.source.fetch(location, AdapterRef("people/bad"))
    assert [path.name for path in root.iterdir()] == ["cache"]


def test_offline_the_hubs_own_cache_is_served(
    hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in PARTS:
        hf_hub_download(NAME, file, endpoint=hub.endpoint, cache_dir=tmp_path / "hf", token=False)
    asked = len(hub.seen)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    caller = Caller(hub, tmp_path / "cache")
    found = caller.fetch(AdapterRef(NAME))
    assert {name: found[name] for name in PARTS} == {name: FILES[name] for name in PARTS}
    assert caller.find(AdapterRef(NAME)).commit == hub.repositories[NAME].branches["main"]
    with caller.source.opened(caller.find(AdapterRef(NAME)), AdapterRef(NAME)) as folder:
        assert (folder / "adapter_config.json").is_file()
    with pytest.raises(AdapterNotFound, match="offline"):
        caller.find(AdapterRef("people/other"))
    assert len(hub.seen) == asked
