"""Who gets room, who makes room, and who waits for it."""

from __future__ import annotations

from pathlib import Path

from lorax_spec.adapters.lease import Lease
from lorax_spec.errors import Overloaded
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


def start(lease: Lease) -> Lease:
    assert lease.ready
    lease.start()
    return lease


def test_a_turn_that_is_over_makes_room_for_others(tmp_path: Path) -> None:
    rig = Rig(tmp_path, cycle_time=2.0)
    running = [start(rig.take(name)) for name in "ab"]
    patient = rig.take("c")
    rig.clock.now += 1.9
    passing, queued = start(rig.take("a")), rig.take("a")
    assert queued.ready, "its turn lasts"
    rig.clock.now += 0.1
    late = rig.take("a")
    assert not late.ready and rig.manager.recalled == {queued}
    assert start(rig.take("b")).ready, "one place is enough, and a comes before b"
    rig.manager.give_back([queued])
    assert not queued.ready and queued.weights == () and not rig.manager.recalled
    rig.manager.check_integrity()
    for lease in (running[0], passing):
        assert not patient.ready
        lease.release()
        rig.executor.run_all()
    assert start(patient).ready and not queued.ready and not late.ready
    rig.clock.now += 1
    patient.release()
    rig.executor.run_all()
    assert queued.ready and late.ready
    rig.manager.check_integrity()


def test_without_others_a_turn_lasts(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=1, cycle_time=0.0)
    start(rig.take("a"))
    rig.clock.now += 100
    assert start(rig.take("a")).ready
    slow = rig.ask("b")
    assert rig.ask("a").ready, "b is not there yet to take its room"
    slow.release()
    rig.executor.run_all()
    rig.manager.pin("a", timeout=0)
    assert isinstance(rig.take("b").error, Overloaded) and start(rig.take("a")).ready


def test_who_lost_its_turn_waits_behind_the_others(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=1, cycle_time=1.0)
    running, queued = start(rig.take("a")), rig.take("a")
    others = [rig.take(name) for name in "bc"]
    rig.clock.now += 1
    later = rig.take("a")
    assert rig.manager.recalled == {queued}
    rig.manager.give_back(rig.manager.recalled)
    running.release()
    order = []
    while waiting := [one for one in (queued, later, *others) if one not in order]:
        rig.executor.run_all()
        ready = [one for one in waiting if one.ready]
        assert ready, "somebody has its turn"
        order += ready
        for lease in ready:
            lease.release()
    assert order == [*others, queued, later]
    rig.manager.check_integrity()


def test_what_has_started_is_not_given_back(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=1, cycle_time=0.0)
    running, queued = start(rig.take("a")), rig.take("a")
    rig.take("b")
    assert rig.manager.recalled == {queued}
    start(queued)
    rig.manager.give_back([running, queued])
    assert running.ready and queued.ready


def test_a_place_that_is_promised_is_not_taken_again(tmp_path: Path) -> None:
    """Else two adapters in turn could keep a third, which needs the room of both, for ever."""
    rig = Rig(tmp_path, slots=2, cycle_time=1.0)
    first, second = start(rig.take("a")), start(rig.take("b"))
    patient = rig.take("c", "d")
    first.release()
    assert not rig.take("a").ready, "it is idle, and c and d need its place"
    rig.clock.now += 1
    assert not rig.take("b").ready
    second.release()
    rig.executor.run_all()
    assert patient.ready
    rig.manager.check_integrity()


def test_a_free_place_is_kept_for_the_first_in_line(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=2)
    running, patient = start(rig.take("a")), rig.take("c", "d")
    assert not rig.take("b").ready and rig.take("a").ready
    running.release()
    rig.executor.run_all()
    assert not patient.ready, "another lease holds a"
    rig.manager.check_integrity()


def test_the_base_model_waits_for_nobody(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=1, cycle_time=0.0)
    held, waiting = start(rig.take("a")), rig.take("b")
    assert all(rig.ask().ready for _ in range(9))
    assert not rig.ask("a").ready
    held.release()
    rig.executor.run_all()
    assert waiting.ready
    rig.manager.check_integrity()


def test_a_failed_or_released_waiter_bars_nobody(tmp_path: Path) -> None:
    rig = Rig(tmp_path, cycle_time=0.0)
    running = start(rig.take("a", "b"))
    patient, later = rig.take("c"), rig.take("a")
    assert not later.ready
    patient.release()
    assert later.ready
    running.release()


def test_a_retired_version_is_not_recalled(tmp_path: Path) -> None:
    """It could not be read again."""
    rig = Rig(tmp_path, slots=1, cycle_time=0.0)
    start(rig.take("a"))
    queued = rig.take("a")
    rig.manager.unload("a")
    rig.take("b")
    assert queued.ready and not rig.manager.recalled


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
