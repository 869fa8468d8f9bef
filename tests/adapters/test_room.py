"""The policy of room, held against its definition."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.adapters.line import Wanted
from lorax_spec.adapters.room import Budget, Departures, evictions, misfit
from lorax_spec.adapters.source import Location
from lorax_spec.adapters.staging import may_exceed, to_drop, to_read
from lorax_spec.adapters.tier import Tier
from lorax_spec.adapters.version import Version
from lorax_spec.adapters.weights import AdapterWeights
from lorax_spec.types import AdapterRef

WEIGHTS = cast(AdapterWeights, object())


@st.composite
def versions(draw: st.DrawFn, on_device: bool | None = None) -> list[Version]:
    """Adapters of any size, on the device or not, some pinned, some in use."""
    made = []
    for number in range(draw(st.integers(1, 8))):
        name = str(number)
        one = Version(AdapterRef(name), Location("", name, "", Path(), ()), draw(st.integers(1, 9)))
        if draw(st.booleans()) if on_device is None else on_device:
            one.device = WEIGHTS
            one.pinned = draw(st.integers(0, 4)) == 0
            one.grants = draw(st.sampled_from([0, 0, 1]))
        made.append(one)
    return made


def tier(members: list[Version]) -> Tier:
    made = Tier()
    for one in members:
        made.put(one)
    return made


def size(members: set[Version]) -> int:
    return sum(one.nbytes for one in members)


def fits(budget: Budget, members: set[Version]) -> bool:
    return size(members) <= budget.device_bytes and len(members) <= budget.max_active


@given(everyone=versions(), spare=st.integers(0, 9), slots=st.integers(0, 2), data=st.data())
def test_evictions(everyone: list[Version], spare: int, slots: int, data: st.DataObject) -> None:
    """The least recently used idle ones, no more than are needed, or none at all."""
    there = [one for one in everyone if one.device]
    device = tier(there)
    budget = Budget(device.bytes + spare, len(device) + slots, 0)
    wanted = data.draw(st.lists(st.sampled_from(everyone), min_size=1, max_size=3))
    victims = evictions(budget, device, wanted)
    idle = [one for one in there if one.idle and one not in wanted]
    after = {*there, *wanted}
    if victims is None:
        assert not fits(budget, after - {*idle})
    else:
        assert victims == idle[: len(victims)]
        assert fits(budget, after - {*victims})
        assert not victims or not fits(budget, after - {*victims[:-1]})
    if misfit(budget, device, wanted) is not None:
        assert victims is None


@given(everyone=versions(), spare=st.integers(0, 3), data=st.data())
def test_departures_of_the_first_leave_it_room(
    everyone: list[Version], spare: int, data: st.DataObject
) -> None:
    """Whatever others want behind it; and nobody leaves who may not or for one who wants it."""
    there = [one for one in everyone if one.device]
    device = tier(there)
    budget = Budget(device.bytes + spare, len(device), 0)
    may = data.draw(st.sets(st.sampled_from(there))) if there else set()
    departures = Departures(budget, device, there, may.__contains__)
    line = data.draw(st.lists(st.lists(st.sampled_from(everyone), min_size=1, max_size=2)))
    for place, wanted in enumerate(line):
        before = list(departures.leaving)
        departures.add(wanted)
        assert list(departures.leaving)[: len(before)] == before, "who leaves goes on leaving"
        assert not {*wanted} & {*list(departures.leaving)[len(before) :]}
        if place == 0:
            enough = fits(budget, {*there, *wanted} - (may - {*wanted}))
            assert enough == fits(budget, {*there, *wanted} - {*departures.leaving})
    assert {*departures.leaving} <= may


@given(everyone=versions(on_device=False), limit=st.integers(0, 40), held=st.data())
def test_host_memory(everyone: list[Version], limit: int, held: st.DataObject) -> None:
    """Within its limit but for the first in line; and what was dropped is not read again."""
    line: list[Wanted] = [
        tuple(one)
        for one in held.draw(st.lists(st.lists(st.sampled_from(everyone), min_size=1, max_size=2)))
    ]
    for one in everyone:
        one.fetched = held.draw(st.booleans())
        one.host = WEIGHTS if one.fetched and held.draw(st.booleans()) else None
        if any(one in wanted for wanted in line):
            one.leases = cast("set", {object()})
    host, device = tier([one for one in everyone if one.host]), Tier()
    dropped = to_drop(line, host, (), limit)
    spare = [one for one in host if not one.leases]
    assert {*dropped} >= {*spare} or not {*dropped} - {*spare}, "those who wait come last"
    for one in dropped:
        one.host = None
        host.drop(one)
    exempt = {*may_exceed(line)}
    assert host.bytes <= limit or {*host} <= exempt
    read = to_read(line, host, device, (), limit)
    assert {*read} & {*dropped} <= exempt
    waiting = {one for one in host if one.leases}
    assert size(waiting) + size({*read}) <= limit or {*read} <= exempt
