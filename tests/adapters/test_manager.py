"""Leases, loads and what the manager tells of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorax_spec.errors import AdapterMismatch, DeadlineExceeded, InternalError, Unavailable
from lorax_spec.types import AdapterRef
from tests.adapters.rig import LORA, MEDUSA, Rig
from tests.adapters.writers import lora_config, write_lora, write_medusa


def test_a_lease_becomes_ready_when_all_of_it_is_on_the_device(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    write_medusa(tmp_path / "heads")
    lease = rig.ask("a", "heads")
    assert not lease.ready and lease.error is None and lease.weights == ()
    assert rig.states("a") == ["fetching"]
    for _ in range(3):  # both are fetched, then read
        assert rig.states("a") == ["fetching"]
        rig.executor.step()
    assert rig.states("a") == ["host"] and not lease.ready
    rig.clock.now += 2.5
    rig.executor.run_all()
    assert lease.ready and lease.waited == 2.5
    assert [weights.kind for weights in lease.weights] == ["lora", "medusa"]
    assert rig.states("a") == ["device"] and rig.info("a").in_use == 1
    lease.release()
    lease.release()
    assert not lease.ready and lease.weights == () and rig.info("a").in_use == 0
    rig.manager.check_integrity()


def test_what_is_on_the_device_is_ready_at_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    first, second = rig.take("a"), rig.ask("a")
    assert second.ready and second.weights[0] is first.weights[0] and second.waited == 0
    assert rig.ask().ready  # the base model alone


def test_wakeup_follows_every_settled_lease(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    woken: list[bool] = []
    lease = rig.ask("a")
    rig.manager.set_wakeup(lambda: woken.append(lease.ready))
    rig.executor.step()
    rig.executor.step()
    assert woken == []
    rig.executor.run_all()
    assert woken == [True]
    rig.take("a", "b", "c")  # three of two
    assert woken == [True, True]


def test_load_waits_and_raises(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    write_lora(tmp_path / "bad", lora_config(use_dora=True))
    with pytest.raises(DeadlineExceeded):
        rig.manager.load(AdapterRef("a"), timeout=0)
    rig.take("a").release()
    assert rig.manager.load(AdapterRef("a"), timeout=0).state == "device"
    rig.take("bad")
    with pytest.raises(AdapterMismatch, match="use_dora"):
        rig.manager.load(AdapterRef("bad"), timeout=0)


def test_load_without_waiting(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=1)
    write_lora(tmp_path / "bad", lora_config(use_dora=True))
    assert rig.manager.load(AdapterRef("a"), wait=False).state == "fetching"
    assert rig.manager.load(AdapterRef("bad"), wait=False).state == "fetching"
    rig.executor.run_all()
    assert rig.info("a").in_use == 0 and rig.manager.on_device() == ("a",)
    assert rig.states("a") == ["device"] and rig.states(["bad"]) == ["failed"]
    with pytest.raises(AdapterMismatch, match="use_dora"):
        rig.manager.load(AdapterRef("bad"), wait=False)
    assert not rig.manager._residency.leases
    assert rig.take("b").ready
    rig.manager.check_integrity()


def test_list_shows_what_nobody_asked_for(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    write_medusa(write_lora(tmp_path / "joint"))
    rig.take("a")
    joint, used = rig.info("joint"), rig.info("a")
    assert (joint.kind, joint.state, joint.tier) == ("lora+medusa", "absent", "disk")
    assert (joint.rank, joint.medusa_heads, joint.source) == (4, 3, "local")
    assert joint.bytes >= LORA + MEDUSA
    assert (used.kind, used.state, used.tier, used.bytes) == ("lora", "device", "device", LORA)
    assert [info.adapter_id for info in rig.manager.list()] == [*"abcdef", "joint"]


def test_close(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    ready, waiting = rig.take("a"), rig.ask("b")
    rig.manager.close()
    assert ready.ready and isinstance(waiting.error, Unavailable)
    assert isinstance(rig.ask("a").error, Unavailable)
    rig.executor.run_all()
    ready.release()
    rig.manager.check_integrity()


def test_integrity_check_finds_what_is_broken(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    lease = rig.take("a")
    lease.versions[0].grants += 1
    with pytest.raises(InternalError, match="a counts 2 grants of 1"):
        rig.manager.check_integrity()
    lease.versions[0].grants -= 1
    lease.versions[0].device = None
    with pytest.raises(InternalError, match="a on the device is counted but not there"):
        rig.manager.check_integrity()
