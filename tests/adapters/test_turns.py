"""Many adapters in little room on a simulated clock: everybody's turn comes within the bound that
Residency states, whoever else keeps asking."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.adapters import integrity
from lorax_spec.adapters.lease import Lease
from lorax_spec.adapters.residency import Residency
from lorax_spec.adapters.room import Budget
from lorax_spec.adapters.source import Location
from lorax_spec.adapters.version import Version
from lorax_spec.adapters.weights import AdapterWeights
from lorax_spec.types import AdapterRef
from tests.adapters.executors import Clock

#: Longest: reading and placing together, waiting for a start, running.
READ, PLACE, START, RUN = 2.0, 1.0, 2.0, 6.0
CYCLE = 4.0
PLENTY = 10**6


@dataclass(frozen=True)
class Request:
    at: int
    adapters: tuple[int, ...]
    start_after: float
    runs: float
    leaves: bool


requests = st.builds(
    Request,
    at=st.integers(0, 60),
    adapters=st.lists(st.integers(0, 6), min_size=1, max_size=2, unique=True).map(tuple),
    start_after=st.sampled_from([0.0, 0.5, START]),
    runs=st.sampled_from([0.5, 1.0, 3.0, RUN]),
    leaves=st.integers(0, 9).map(lambda one: one == 0),
)


@dataclass
class Wait:
    """Since when a lease waits, and how many queues were before its own then."""

    since: float
    before: int


@dataclass
class House:
    """Residency with its jobs and requests done by a simulated clock."""

    budget: Budget
    sizes: list[int]
    speed: float
    clock: Clock = field(default_factory=Clock)
    leases: dict[Lease, Request] = field(default_factory=dict)
    waits: dict[Lease, Wait] = field(default_factory=dict)
    started: list[tuple[Request, float]] = field(default_factory=list)
    granted: list[Lease] = field(default_factory=list)
    given_back: int = 0

    def __post_init__(self) -> None:
        self.residency = Residency(self.budget, CYCLE, self.clock)
        self.versions = [
            Version(AdapterRef(str(i)), Location("", str(i), "", Path(), ()), size)
            for i, size in enumerate(self.sizes)
        ]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.clock.now + seconds, next(self._number), event))

    def run(self) -> None:
        while self._events:
            self.clock.now, _, event = heapq.heappop(self._events)
            event()
            self._follow()

    def arrive(self, request: Request) -> None:
        lease = Lease(self.residency.release, self.clock)
        self.leases[lease] = request
        self._wait(lease, tuple(self.versions[one] for one in request.adapters))
        self.residency.admit(lease, [self.versions[one] for one in request.adapters])
        if request.leaves:
            self.after(1.0, lambda: None if lease.started else self._end(lease))

    def _wait(self, lease: Lease, wanted: tuple[Version, ...]) -> None:
        line = self.residency.waiting.wanted()
        before = line.index(wanted) if wanted in line else len(line)
        self.waits[lease] = Wait(self.clock.now, before)

    def _follow(self) -> None:
        """What follows from an event at once: jobs begin, recalled leases come back."""
        while jobs := self.residency.take_jobs():
            for job in jobs:
                work = {"fetch": self._fetched, "read": self._read, "place": self._placed}
                seconds = {"fetch": 0.0, "read": READ, "place": PLACE}[job.task] * self.speed
                self.after(seconds, partial(work[job.task], job.version))
            self._give_back()
        self._give_back()
        assert not list(integrity.faults(self.residency, self.versions))
        for lease in list(self.waits):
            if lease.granted:
                self._check(lease, self.waits.pop(lease))
                self.granted.append(lease)
        for lease in [one for one in self.granted if one.ready or one not in self.leases]:
            self.granted.remove(lease)
            if lease in self.leases:
                self.after(self.leases[lease].start_after, partial(self._start, lease))

    def _give_back(self) -> None:
        recalled = [one for one in self.leases if one in self.residency.recalled]
        if recalled:
            wanted = {lease: lease.versions for lease in recalled}
            self.residency.give_back(recalled)
            self.given_back += len(recalled)
            for lease in recalled:
                line = self.residency.waiting.wanted()
                self.waits[lease] = Wait(self.clock.now, line.index(wanted[lease]))

    def _check(self, lease: Lease, wait: Wait) -> None:
        longest = READ + PLACE + START + CYCLE + RUN
        if self.budget.host_bytes == PLENTY:
            assert self.clock.now - wait.since <= (wait.before + 1) * longest

    def _start(self, lease: Lease) -> None:
        if lease.ready and not lease.started and lease in self.leases:
            lease.start()
            self.started.append((self.leases[lease], self.clock.now))
            self.after(self.leases[lease].runs, partial(self._end, lease))

    def _end(self, lease: Lease) -> None:
        self.waits.pop(lease, None)
        del self.leases[lease]
        self.residency.release(lease)

    def _fetched(self, version: Version) -> None:
        self.residency.fetched(version)

    def _read(self, version: Version) -> None:
        weights = SimpleNamespace(
            nbytes=version.nbytes,
            kind="lora",
            lora=None,
            heads=None,
            chat=None,
            slab=SimpleNamespace(data=torch.empty(version.nbytes, dtype=torch.uint8)),
        )
        self.residency.loaded(version, cast(AdapterWeights, weights))

    def _placed(self, version: Version) -> None:
        assert version.host is not None
        self.residency.placed(version, version.host)


def play(house: House, crowd: list[Request]) -> None:
    for request in crowd:
        house.after(float(request.at), partial(house.arrive, request))
    house.run()
    assert not house.leases and not house.waits, "everybody has ended"
    assert not house.residency.waiting.wanted() and not house.residency.recalled


@settings(max_examples=150)
@given(
    crowd=st.lists(requests, min_size=1, max_size=40),
    slots=st.integers(2, 4),
    sizes=st.lists(st.integers(1, 5), min_size=7, max_size=7),
    host=st.sampled_from([0, 8, PLENTY]),
    speed=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_everybodys_turn_comes_in_time(
    crowd: list[Request], slots: int, sizes: list[int], host: int, speed: float
) -> None:
    play(House(Budget(10, slots, host), sizes, speed), crowd)


def test_an_adapter_that_is_always_asked_for_cannot_keep_another_out() -> None:
    """A request on the first every half second for a minute; two others each ask once."""
    hog = [Request(i, (0,), 0.0, 3.0, False) for i in range(60)]
    others = [Request(5, (1,), 0.0, 1.0, False), Request(5, (2,), 0.0, 1.0, False)]
    house = House(Budget(10, 1, PLENTY), [1] * 7, 0.1)
    play(house, [*hog, *others])
    ends = {one.adapters[0]: at - 100 - one.at for one, at in house.started if one in others}
    assert 0 < ends[1] <= ends[2] <= CYCLE + 3.0 + 2.0
    assert max(at - 100 - one.at for one, at in house.started if one in hog) <= 2 * CYCLE


def test_who_has_not_started_comes_back_and_waits_its_turn() -> None:
    running, queued = Request(0, (0,), 0.0, RUN, False), Request(3, (0,), START, 1.0, False)
    other = Request(4, (1,), 0.0, 1.0, False)
    house = House(Budget(10, 1, PLENTY), [1] * 7, 0.0)
    play(house, [running, queued, other])
    assert house.given_back == 1
    assert house.started == [(running, 100), (other, 106), (queued, 107 + START)]
