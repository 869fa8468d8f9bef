"""Who gets room, who makes room, and who waits for it."""

from __future__ import annotations

from pathlib import Path

from tests.adapters.rig import LORA, Rig


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


def test_the_base_model_waits_for_nobody(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=1, max_overtakes=3)
    held, waiting = rig.take("a"), rig.take("b")
    assert all(rig.ask().ready for _ in range(9))
    overtaking = [rig.ask("a") for _ in range(4)]
    assert [lease.ready for lease in overtaking] == [True, True, True, False]
    for lease in (held, *overtaking):
        lease.release()
    rig.executor.run_all()
    assert waiting.ready
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
