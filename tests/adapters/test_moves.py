"""What a manager tells of loads and evictions, for figures."""

from __future__ import annotations

from pathlib import Path

from lorax_spec.types import AdapterRef, MergedRef
from tests.adapters.rig import Rig


def test_loads_by_stage_and_evictions_are_told_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=1)

    def told() -> list[tuple[str, str]]:
        moves = rig.manager.take_moves()
        assert all(one.seconds > 0 for one in moves if one.stage != "evict")
        return [(one.adapter_id, one.stage) for one in moves]

    rig.take("a").release()
    assert told() == [("a", "fetch"), ("a", "read"), ("a", "copy")]
    assert told() == []
    rig.take("b").release()
    assert told() == [("b", "fetch"), ("b", "read"), ("a", "evict"), ("b", "copy")]
    rig.take("a").release()
    assert told() == [("b", "evict"), ("a", "copy")], "it was still in host memory"
    rig.take("a").release()
    assert told() == []


def test_who_was_merged_for_requests_has_no_name(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    merged = MergedRef((AdapterRef("a"), AdapterRef("b")), (0.5, 0.5))
    lease = rig.manager.lease((merged,))
    rig.executor.run_all()
    assert lease.ready
    assert {one.adapter_id for one in rig.manager.take_moves()} == {""}


def test_nobody_who_asks_is_no_leak(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=1)
    for turn in range(700):
        rig.take("ab"[turn % 2]).release()
    assert len(rig.manager.take_moves()) == 1024
