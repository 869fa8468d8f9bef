"""Adapters that have to be looked up and fetched: who waits, who gets them, and who does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorax_spec.adapters.folder import read_folder
from lorax_spec.adapters.merging import MergeRecipe, merge
from lorax_spec.errors import (
    AdapterMismatch,
    AdapterNotFound,
    DeadlineExceeded,
    LoraxSpecError,
    PermissionDenied,
    Unavailable,
)
from lorax_spec.types import AdapterRef, MergedRef
from tests.adapters.remote import Remote, is_seed
from tests.adapters.writers import SHAPE
from tests.standins.hub import StandInHub

PUBLIC, OWN = AdapterRef("people/lora"), AdapterRef("people/own", api_token="right")


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub() as hub:
        yield hub


@pytest.fixture
def remote(hub: StandInHub, tmp_path: Path) -> Remote:
    remote = Remote(tmp_path, hub)
    fill(hub, remote)
    return remote


def fill(hub: StandInHub, remote: Remote) -> None:
    hub.repository("people/lora").push(remote.files(11))
    hub.repository("people/own", private=True, readers={"right", "also"}).push(remote.files(12))


def test_a_lease_waits_for_the_look_up_then_for_the_adapter(remote: Remote) -> None:
    lease = remote.ask(PUBLIC, "a")
    assert not lease.settled and len(remote.executor.jobs) == 1
    assert "people/lora" not in [info.adapter_id for info in remote.manager.list()]
    remote.executor.step()
    assert not lease.settled
    assert remote.info("people/lora").state == "fetching"
    remote.executor.run_all()
    assert lease.ready and is_seed(lease, 11) and is_seed(lease, 0, index=1)
    info = remote.info("people/lora")
    assert (info.source, info.state, info.kind, info.tier) == ("hub", "device", "lora", "device")
    assert info.load.fetch > 0 and info.load.read > 0 and info.load.copy >= 0
    again = remote.ask(PUBLIC)
    assert again.ready and not remote.executor.jobs
    remote.manager.check_integrity()


def test_one_look_up_serves_all_who_wait(remote: Remote, hub: StandInHub) -> None:
    leases = [remote.ask(PUBLIC) for _ in range(3)] + [remote.ask("b", PUBLIC)]
    assert len(remote.executor.jobs) == 1
    remote.executor.run_all()
    assert all(lease.ready for lease in leases) and len(hub.questions()) == 1


def test_a_lease_that_is_released_meanwhile_is_dropped(remote: Remote) -> None:
    gone, kept = remote.ask(PUBLIC, OWN), remote.ask(OWN)
    gone.release()
    assert gone.settled and not gone.ready
    gone.release()
    remote.executor.run_all()
    assert kept.ready and gone.weights == ()
    kept.release()
    only = remote.ask(AdapterRef("people/lora@main"))
    only.release()
    remote.executor.run_all()
    assert all(info.revision != "main" for info in remote.manager.list())
    again = remote.ask(AdapterRef("people/lora@main"))
    remote.executor.run_all()
    assert again.ready
    remote.manager.check_integrity()


def test_faults_of_a_look_up_reach_those_who_wait_and_wake_them(
    remote: Remote, hub: StandInHub
) -> None:
    woken = threading.Event()
    remote.manager.set_wakeup(woken.set)
    hub.silent.add("people/down")
    absent = remote.ask("a", "people/none")
    down = remote.ask("people/down")
    well = remote.ask("b")
    remote.executor.run_all()
    assert woken.is_set() and well.ready
    assert isinstance(absent.error, PermissionDenied) and isinstance(down.error, Unavailable)
    assert isinstance(remote.ask("people/down").error, Unavailable), "remembered for a moment"
    remote.manager.check_integrity()


def test_a_private_adapter_on_the_device_is_for_its_readers_only(
    remote: Remote, hub: StandInHub
) -> None:
    hub.tokens.add("other")
    lease, public = remote.take(OWN), remote.take(PUBLIC)
    assert lease.ready and is_seed(lease, 12)
    merged = MergedRef((PUBLIC, AdapterRef("people/own")), (1.0, 1.0))
    for refs in (
        (AdapterRef("people/own"),),
        (AdapterRef("people/own", api_token="wrong"),),
        (AdapterRef("people/own", source="hub"),),
        (PUBLIC, AdapterRef("people/own")),
        (AdapterRef("people/own"), PUBLIC),
        (merged,),
    ):
        refused = remote.take(*refs)
        assert isinstance(refused.error, PermissionDenied) and refused.weights == ()
    assert isinstance(
        remote.take(AdapterRef("people/own", api_token="other")).error, AdapterNotFound
    )
    assert lease.ready and public.ready


def test_scopes_share_nothing(remote: Remote, hub: StandInHub) -> None:
    first, second = remote.take(OWN), remote.take(AdapterRef("people/own", api_token="also"))
    assert first.ready and second.ready and is_seed(second, 12)
    assert first.weights[0].fingerprint != second.weights[0].fingerprint
    assert first.weights[0].slab is not second.weights[0].slab
    assert len(hub.downloads()) == 2, "of the two files; the bytes on disk are one commit's"
    hub.tokens.add("some")
    tokenless, token = remote.take(PUBLIC), remote.take(AdapterRef("people/lora", api_token="some"))
    assert tokenless.weights == token.weights


def test_merged_adapters_of_everywhere(remote: Remote, hub: StandInHub) -> None:
    ref = MergedRef((PUBLIC, OWN, AdapterRef("a")), (0.5, 0.25, 1.0))
    lease = remote.ask(ref)
    assert not lease.settled and len(remote.executor.jobs) == 2
    remote.executor.run_all()
    assert lease.ready, lease.error
    parts = [
        read_folder(remote.root / folder, SHAPE, torch.float32)
        for folder in ("seed-11", "seed-12", "local/a")
    ]
    expected = merge(parts, MergeRecipe("linear", (0.5, 0.25, 1.0), 1.0, "total"))
    assert torch.equal(lease.weights[0].slab.data, expected.slab.data)
    assert lease.weights[0].fingerprint != expected.fingerprint, "it has a scope"
    also = MergedRef(
        (PUBLIC, AdapterRef("people/own", api_token="also"), ref.parts[2]), ref.weights
    )
    other = remote.take(also)
    assert other.weights[0].fingerprint != lease.weights[0].fingerprint
    assert torch.equal(other.weights[0].slab.data, expected.slab.data)
    assert remote.take(ref).weights == lease.weights
    again = MergedRef((AdapterRef("a"), AdapterRef("b")), (1.0, 1.0))
    assert remote.take(again).weights == remote.take(again).weights
    info = remote.info(again.adapter_id)
    assert (info.source, info.kind) == ("merged", "lora")
    with pytest.raises(AdapterMismatch, match="never fit"):
        bad = Remote(remote.root, hub, slots=0).take(again)
        assert bad.error
        raise bad.error


def test_a_merged_adapter_follows_its_local_part(remote: Remote) -> None:
    ref = MergedRef((AdapterRef("a"), AdapterRef("b")), (1.0, 1.0))
    old = remote.take(ref)
    (remote.root / "local" / "b" / "adapter_model.safetensors").write_bytes(
        remote.files(13)["adapter_model.safetensors"]
    )
    new = remote.take(ref)
    assert old.ready and new.ready
    assert old.weights[0].fingerprint != new.weights[0].fingerprint


def test_a_branch_that_moves(remote: Remote, hub: StandInHub) -> None:
    old = remote.take(PUBLIC)
    hub.repositories["people/lora"].push(remote.files(21))
    assert remote.take(PUBLIC).weights == old.weights
    remote.clock.now += 61
    new = remote.take(PUBLIC)
    assert old.ready and is_seed(old, 11) and is_seed(new, 21)
    assert old.weights[0].fingerprint != new.weights[0].fingerprint
    old.release()
    remote.manager.check_integrity()
    assert [info.state for info in remote.manager.list() if info.source == "hub"] == ["device"]


def test_a_token_that_expires(remote: Remote, hub: StandInHub) -> None:
    running = remote.take(OWN)
    hub.tokens.clear()
    remote.clock.now += 61
    refused = remote.take(OWN)
    assert isinstance(refused.error, PermissionDenied) and running.ready


def test_what_is_for_anyone_is_fetched_as_anyone(remote: Remote, hub: StandInHub) -> None:
    hub.tokens.add("some")
    first = remote.ask(AdapterRef("people/lora", api_token="some"))
    remote.executor.step()
    hub.tokens.clear()
    second = remote.take(PUBLIC)
    assert first.ready and second.ready


def test_load_pin_unload_and_list(remote: Remote) -> None:
    info = remote.manager.load(OWN, wait=False)
    assert (info.adapter_id, info.state) == ("people/own", "fetching")
    remote.executor.run_all()
    assert remote.info("people/own").state == "device"
    for _ in range(3):
        assert remote.manager.pin("people/own").pinned
    assert remote.info("people/own").pinned
    assert not remote.manager.pin("people/own", pinned=False).pinned
    remote.manager.unload("people/own")
    assert "people/own" not in [info.adapter_id for info in remote.manager.list()]
    for call in (remote.manager.unload, lambda name: remote.manager.pin(name, pinned=False)):
        with pytest.raises(AdapterNotFound):
            call("people/own")
    remote.manager.check_integrity()


def test_files_dropped_before_they_are_read_are_fetched_again(
    hub: StandInHub, tmp_path: Path
) -> None:
    remote = Remote(tmp_path, hub)
    fill(hub, remote)
    size = sum(len(content) for content in remote.files(11).values())
    remote = Remote(tmp_path / "small", hub, cache_bytes=size + 10)
    first, second = remote.ask(PUBLIC), remote.ask(OWN)
    for _ in range(4):  # both look-ups, both downloads
        remote.executor.step()
    assert len(hub.downloads()) == 4
    remote.executor.run_all()
    assert is_seed(first, 11) and is_seed(second, 12)


def test_what_the_cache_cannot_hold_is_refused(hub: StandInHub, tmp_path: Path) -> None:
    remote = Remote(tmp_path, hub, cache_bytes=1000)
    fill(hub, remote)
    error = remote.take(PUBLIC).error
    assert isinstance(error, AdapterMismatch) and "1000" in error.message
    assert not hub.downloads()


def test_nobody_waits_for_anothers_host(hub: StandInHub, tmp_path: Path) -> None:
    remote = Remote(tmp_path, hub, threads=True)
    fill(hub, remote)
    hub.silent.add("people/down")
    for index in range(6):
        hub.repository(f"people/slow{index}").push(remote.files(11))
    hub.bytes_per_second = 2000
    slow = [remote.ask(f"people/slow{index}") for index in range(6)]
    failing = [remote.ask(f"people/down@{index}") for index in range(20)]
    deadline = time.monotonic() + 20
    while len(hub.downloads()) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for name in ("a", "b", "a"):
        remote.manager.load(AdapterRef(name), timeout=5)
    with pytest.raises(DeadlineExceeded):
        remote.manager.load(PUBLIC, timeout=0.05)
    assert not any(lease.settled for lease in slow)
    began = time.monotonic()
    remote.manager.close()
    assert time.monotonic() - began < 2, "a download that crawls holds up no end"
    assert all(isinstance(lease.error, Unavailable) for lease in (*slow, *failing))


@pytest.mark.slow
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("ask"),
                st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=2),
            ),
            st.tuples(st.just("merge"), st.tuples(st.integers(0, 2), st.integers(0, 3))),
            st.tuples(st.just("push"), st.integers(0, 2)),
            st.tuples(st.just("wait"), st.integers(0, 70)),
        ),
        max_size=14,
    )
)
def test_nobody_ever_gets_what_the_hub_would_refuse_him(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, object]]
) -> None:
    """Repository 0 is public, 1 is for token 1, 2 for tokens 1 and 2; token 0 is none."""
    readers: list[set[str]] = [set(), {"t1"}, {"t1", "t2"}]
    tokens = ["", "t1", "t2", "t3"]
    with StandInHub() as hub:
        hub.tokens |= {"t1", "t2", "t3"}
        remote = Remote(tmp_path_factory.mktemp("remote"), hub)
        for index, those in enumerate(readers):
            made = hub.repository(f"people/{index}", private=bool(those), readers=those)
            made.push(remote.files(index))
        latest = [0, 1, 2]

        def may(repository: int, token: int) -> bool:
            return not readers[repository] or tokens[token] in readers[repository]

        def ref(repository: int, token: int) -> AdapterRef:
            return AdapterRef(f"people/{repository}", api_token=tokens[token])

        for verb, operand in script:
            if verb == "ask":
                wanted: list[tuple[int, int]] = operand  # type: ignore[assignment]
                lease = remote.take(*(ref(*one) for one in wanted))
                allowed = all(may(*one) for one in wanted)
                assert lease.ready == allowed, lease.error
                if allowed:
                    for index, (repository, _) in enumerate(wanted):
                        assert any(
                            is_seed(lease, seed, index)
                            for seed in range(repository, latest[repository] + 1, 3)
                        )
                else:
                    assert isinstance(lease.error, PermissionDenied | AdapterNotFound)
                lease.release()
            elif verb == "merge":
                repository, token = operand  # type: ignore[misc]
                both = MergedRef((AdapterRef("a"), ref(repository, token)), (1.0, 1.0))
                lease = remote.take(both)
                assert lease.ready == may(repository, token)
                lease.release()
            elif verb == "push":
                latest[operand] += 3  # type: ignore[index]
                hub.repositories[f"people/{operand}"].push(remote.files(latest[operand]))  # type: ignore[index]
            else:
                remote.clock.now += operand  # type: ignore[operator]


def test_an_internal_fault_of_a_source_is_one_error(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(ref: AdapterRef) -> None:
        raise KeyError("why")

    monkeypatch.setattr(remote.source, "look_up", broken)
    error = remote.take(PUBLIC).error
    assert isinstance(error, LoraxSpecError) and "KeyError" in error.message
