from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from lorax_spec.adapters.lease import Lease
from lorax_spec.adapters.local_source import LocalSource
from lorax_spec.adapters.manager import AdapterManager
from lorax_spec.adapters.residency import Budget
from lorax_spec.errors import (
    AdapterMismatch,
    AdapterNotFound,
    DeadlineExceeded,
    InternalError,
    Overloaded,
    PermissionDenied,
    Unavailable,
)
from lorax_spec.types import AdapterInfo, AdapterRef
from tests.adapters.executors import Clock, StepExecutor
from tests.adapters.writers import (
    SHAPE,
    lora_config,
    lora_tensors,
    medusa_tensors,
    write_lora,
    write_medusa,
)

#: Bytes of a slab as write_lora and write_medusa make them, float32.
LORA = 4 * sum(tensor.numel() for tensor in lora_tensors().values())
MEDUSA = 4 * sum(tensor.numel() for tensor in medusa_tensors().values())


@dataclass
class Rig:
    """A manager whose work is done when the test says so."""

    root: Path
    slots: int = 2
    device_bytes: int = 2**30
    host_bytes: int = 2**30
    max_overtakes: int = 3
    executor: StepExecutor = field(default_factory=StepExecutor)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        for seed, name in enumerate("abcdef"):
            write_lora(self.root / name, tensors=lora_tensors(seed=seed))
        self.manager = AdapterManager(
            LocalSource({"": self.root}),
            SHAPE,
            dtype=torch.float32,
            device=torch.device("cpu"),
            budget=Budget(self.device_bytes, self.slots, self.host_bytes),
            executor=self.executor,
            clock=self.clock,
            max_overtakes=self.max_overtakes,
        )

    def ask(self, *ids: str) -> Lease:
        return self.manager.lease(tuple(map(AdapterRef, ids)))

    def take(self, *ids: str) -> Lease:
        lease = self.ask(*ids)
        self.executor.run_all()
        self.manager.check_integrity()
        return lease

    def info(self, adapter_id: str) -> AdapterInfo:
        (info,) = [info for info in self.manager.list() if info.adapter_id == adapter_id]
        return info

    def states(self, ids: Iterable[str] = "abc") -> list[str]:
        return [self.info(adapter_id).state for adapter_id in ids]


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


def test_least_recently_used_goes_first_and_comes_back_from_host(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for name in "aba":
        rig.take(name).release()
    third = rig.take("c")
    assert third.ready and rig.states() == ["device", "host", "device"]
    again = rig.ask("b")
    assert not again.ready
    rig.executor.step()  # a single job: nothing is read
    assert again.ready and rig.states() == ["host", "device", "device"]


def test_bytes_are_a_budget_too(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=9, device_bytes=2 * LORA)
    for name in "abc":
        rig.take(name).release()
    assert rig.states() == ["host", "device", "device"]


def test_host_tier_has_a_limit(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=1, host_bytes=LORA)
    for name in "abc":
        rig.take(name).release()
    assert rig.states() == ["absent", "host", "device"]
    assert rig.info("a").bytes == LORA and rig.info("a").tier == "disk"


def test_nothing_leased_is_evicted(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    held = rig.take("a", "b")
    waiting = rig.take("c")
    assert not waiting.ready and waiting.error is None
    held.release()
    rig.executor.run_all()
    assert waiting.ready


def test_two_leases_never_hold_what_the_other_needs(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.take("a").release()
    rig.take("b").release()
    held = rig.take("f")
    first, second = rig.take("a", "b"), rig.take("b", "c")
    assert not first.ready and not second.ready
    held.release()
    rig.executor.run_all()
    assert first.ready and not second.ready
    first.release()
    rig.executor.run_all()
    assert second.ready
    rig.manager.check_integrity()


def test_a_slow_or_broken_load_holds_up_nobody(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    (tmp_path / "b" / "adapter_model.safetensors").write_bytes(b"broken")
    slow, broken, quick = rig.ask("a"), rig.ask("b"), rig.ask("c")
    for _ in range(3):
        rig.executor.step(2)
    assert quick.ready and not slow.ready and not broken.error
    for _ in range(2):
        rig.executor.step(1)
    assert isinstance(broken.error, AdapterMismatch) and not broken.ready
    assert "adapter b" in broken.error.message and rig.info("b").error == broken.error.message
    rig.executor.run_all()
    assert slow.ready
    broken.release()
    rig.manager.check_integrity()


def test_one_bad_adapter_fails_the_whole_lease_only(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    write_lora(tmp_path / "b", lora_config(r=8))
    pair, alone = rig.ask("a", "b"), rig.ask("a")
    rig.executor.run_all()
    assert isinstance(pair.error, AdapterMismatch) and pair.weights == () and alone.ready


@pytest.mark.parametrize(
    ("adapter_id", "error"), [("nothing", AdapterNotFound), ("../a", PermissionDenied)]
)
def test_what_the_source_refuses(tmp_path: Path, adapter_id: str, error: type[Exception]) -> None:
    rig = Rig(tmp_path)
    lease = rig.ask("a", adapter_id)
    assert isinstance(lease.error, error) and not rig.executor.jobs
    lease.release()
    with pytest.raises(error):
        rig.manager.load(AdapterRef(adapter_id))
    with pytest.raises(error):
        rig.manager.unload(adapter_id)
    with pytest.raises(error):
        rig.manager.pin(adapter_id)
    with pytest.raises(error):
        rig.manager.pin(adapter_id, pinned=False)


def test_a_failure_is_remembered_for_a_second(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    config = tmp_path / "a" / "adapter_config.json"
    good = config.read_bytes()
    config.unlink()
    config.mkdir()
    (tmp_path / "a" / "config.json").write_text("{}")
    first = rig.take("a")
    assert first.error is not None and rig.states("a") == ["failed"]
    first.release()
    second = rig.ask("a")
    assert second.error is first.error and not rig.executor.jobs
    rig.clock.now += 1.01
    third = rig.take("a")
    assert third.error is not None and third.error is not first.error
    config.rmdir()
    config.write_bytes(good)
    assert rig.take("a").ready  # a changed folder is tried at once


def test_what_can_never_fit_says_the_sizes(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "1", slots=9, device_bytes=LORA + MEDUSA - 1)
    write_medusa(rig.root / "heads")
    error = rig.take("a", "heads").error
    assert isinstance(error, AdapterMismatch)
    assert str(LORA + MEDUSA) in error.message and str(LORA + MEDUSA - 1) in error.message
    small = Rig(tmp_path / "2", device_bytes=LORA - 1)
    error = small.take("a").error
    assert isinstance(error, AdapterMismatch) and str(LORA) in error.message
    error = Rig(tmp_path / "3").take("a", "b", "c").error
    assert isinstance(error, AdapterMismatch) and "3 adapters" in error.message


def test_waiting_for_room_is_bounded(tmp_path: Path) -> None:
    """Later leases on what is there pass a waiting one, but only so often."""
    rig = Rig(tmp_path, max_overtakes=3)
    running = [rig.take("a"), rig.take("b")]
    patient = rig.take("c", "d")
    passed = [rig.take("a") for _ in range(10)]
    assert [lease.ready for lease in passed] == [True] * 3 + [False] * 7
    for lease in running + passed[:3]:
        assert not patient.ready
        lease.release()
        rig.executor.run_all()
    assert patient.ready and not any(lease.ready for lease in passed[3:])
    patient.release()
    rig.executor.run_all()
    assert all(lease.ready for lease in passed[3:])
    rig.manager.check_integrity()


def test_a_failed_or_released_waiter_bars_nobody(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_overtakes=0)
    running = rig.take("a", "b")
    patient, later = rig.take("c"), rig.take("a")
    assert not later.ready
    patient.release()
    assert later.ready
    running.release()


def test_waiting_adapters_stay_within_host_memory(tmp_path: Path) -> None:
    # A file is taken for bfloat16, which doubles in memory, until it was read.
    rig = Rig(tmp_path, slots=1, host_bytes=3 * LORA + 4000)
    running = rig.take("a")
    waiting = [rig.take(name) for name in "bcdef"]
    assert rig.states("bcdef") == ["host", "host", "fetching", "fetching", "fetching"]
    running.release()
    for lease in waiting:
        rig.executor.run_all()
        assert lease.ready
        rig.manager.check_integrity()
        lease.release()


def test_a_changed_folder_is_a_new_version(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=3)
    old = rig.take("a")
    before = old.weights[0].lora
    assert before is not None
    kept = before.modules["model.layers.0.self_attn.q_proj"][0].clone()
    write_lora(tmp_path / "a", tensors=lora_tensors(seed=77))
    new = rig.take("a")
    assert old.ready and new.ready
    assert old.weights[0].fingerprint != new.weights[0].fingerprint
    assert torch.equal(before.modules["model.layers.0.self_attn.q_proj"][0], kept)
    old.release()
    assert rig.info("a").in_use == 1
    rig.manager.check_integrity()
    assert rig.ask("a").weights == new.weights


def test_a_folder_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    lease = rig.ask("a")
    write_lora(tmp_path / "a", tensors=lora_tensors(seed=77))
    rig.executor.run_all()
    assert lease.ready and rig.ask("a").weights == lease.weights
    write_lora(tmp_path / "other", tensors=lora_tensors(seed=77))
    assert rig.take("other").weights[0].fingerprint == lease.weights[0].fingerprint


def test_unload_in_use_waits_for_the_last_lease(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    first, second = rig.take("a"), rig.take("a")
    rig.manager.unload("a")
    assert rig.states("a") == ["evicting"] and first.ready
    first.release()
    assert rig.states("a") == ["evicting"]
    fresh = rig.ask("a")
    assert not fresh.ready
    rig.executor.run_all()
    assert fresh.weights[0] is not second.weights[0]
    second.release()
    rig.manager.unload("a")
    fresh.release()
    assert rig.states("a") == ["absent"]
    rig.manager.unload("a")  # known to the source: nothing to do
    rig.manager.check_integrity()


def test_unload_while_it_loads(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    lease = rig.ask("a")
    rig.manager.unload("a")
    rig.executor.run_all()
    assert lease.ready
    lease.release()
    gone = rig.ask("b")
    gone.release()
    rig.manager.unload("b")
    rig.executor.run_all()
    assert rig.states("ab") == ["absent", "absent"]
    rig.manager.check_integrity()


def test_a_deleted_folder_is_served_no_more_but_can_be_unloaded(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    held = rig.take("a")
    for file in (tmp_path / "a").iterdir():
        file.unlink()
    assert isinstance(rig.ask("a").error, AdapterNotFound) and held.ready
    rig.manager.unload("a")
    held.release()
    assert "a" not in [info.adapter_id for info in rig.manager.list()]
    with pytest.raises(AdapterNotFound):
        rig.manager.unload("a")


def pinned(rig: Rig, adapter_id: str) -> None:
    rig.take(adapter_id).release()
    assert rig.manager.pin(adapter_id).pinned


def test_pins_stay(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    pinned(rig, "a")
    for name in "bcd":
        rig.take(name).release()
    assert rig.states("abcd") == ["device", "host", "host", "device"] and rig.info("a").pinned
    assert not rig.manager.pin("a", pinned=False).pinned
    for name in "bc":
        rig.take(name).release()
    assert rig.states("a") == ["host"]


def test_what_does_not_fit_beside_the_pins(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    running = rig.take("b")
    patient = rig.take("c", "d")
    rig.take("a").release()
    rig.manager.pin("a")
    assert isinstance(patient.error, Overloaded) and "pinned" in patient.error.message
    running.release()
    assert rig.take("c").ready
    rig.manager.pin("a", pinned=False)
    rig.manager.check_integrity()


def test_what_does_not_fit_beside_the_bytes_of_the_pins(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=9, device_bytes=2 * LORA)
    pinned(rig, "a")
    assert isinstance(rig.take("b", "c").error, Overloaded)
    assert rig.take("b").ready


def test_unload_unpins(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    pinned(rig, "a")
    rig.manager.unload("a")
    assert rig.states("a") == ["absent"] and not rig.info("a").pinned
    rig.take("a").release()
    assert not rig.info("a").pinned


def test_a_pin_outlives_a_change_of_the_folder(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    pinned(rig, "a")
    write_lora(tmp_path / "a", tensors=lora_tensors(seed=77))
    for name in "abc":
        rig.take(name).release()
    assert rig.states("a") == ["device"] and rig.info("a").pinned


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


def test_a_place_that_fails_costs_its_own_leases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    held = rig.take("b")
    place = rig.manager._place_on_device

    def full(weights: object) -> object:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(rig.manager, "_place_on_device", full)
    lost = rig.take("a")
    assert isinstance(lost.error, InternalError) and "no memory" in lost.error.message
    assert held.ready and rig.states("ab") == ["host", "device"]
    monkeypatch.setattr(rig.manager, "_place_on_device", place)
    assert rig.take("a").ready
