"""Which adapter lies where, and who gets room next.

Plain state without threads or files: the manager holds a lock around every call, and does the
work that ``take_jobs`` asks for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lorax_spec.adapters.lease import Lease
from lorax_spec.adapters.line import Line, Wanted
from lorax_spec.adapters.room import Budget, Departures, evictions, misfit
from lorax_spec.adapters.staging import to_drop, to_fetch, to_read
from lorax_spec.adapters.tier import Tier
from lorax_spec.adapters.version import Task, Version
from lorax_spec.adapters.weights import AdapterWeights
from lorax_spec.errors import LoraxSpecError
from lorax_spec.types import AdapterMove, AdapterRef

#: Moves that are kept until somebody asks for them.
_MOST_MOVES = 1024


@dataclass(frozen=True)
class Job:
    """Fetch a version's files, read them into host memory, or place it on the device."""

    task: Task
    version: Version


class Residency:
    """Grants leases: to each set of adapters in its turn, those that began to wait first before
    others, and all leases that wait for the same adapters at once.

    All adapters of a lease get room together or none does, so no two leases can hold what the other
    needs.  Whose adapters still load wait alone, whoever finds its adapters on the device waits for
    nobody: but when an adapter's turn, the time since when it has been run on, has lasted
    ``cycle_time`` seconds, and others wait for its room, no further lease on it is granted, and
    those that have not started are ``recalled``: their holders should give them back, for they now
    wait behind the others.  The longest turns end first, as many as are needed.

    So a lease whose adapters are in host memory, with k queues before its own in the line, has room
    after at most (k + 1) (P + B + S + R) seconds, whatever still comes: P is the longest time of
    reading and placing an adapter, B the longest from a lease's being ready to its start, S the
    cycle time, and R the longest from a start to the lease's release.
    """

    def __init__(self, budget: Budget, cycle_time: float, clock: Callable[[], float]) -> None:
        self.budget = budget
        self.device = Tier()
        self.host = Tier()
        self.leases: dict[Lease, None] = {}
        self.waiting = Line()
        #: May be read from any thread; replaced, never changed.
        self.recalled: frozenset[Lease] = frozenset()
        self.retired: set[Version] = set()
        self.reading: set[Version] = set()
        self._cycle_time = cycle_time
        self._clock = clock
        self._jobs: list[Job] = []
        self._settled = False
        self._moves: deque[AdapterMove] = deque(maxlen=_MOST_MOVES)

    def take_jobs(self) -> list[Job]:
        """Work to be done now, in order; each is handed out once."""
        jobs, self._jobs = self._jobs, []
        return jobs

    def take_settled(self) -> bool:
        """Whether a lease became ready or failed since the last call."""
        settled, self._settled = self._settled, False
        return settled

    def took(self, version: Version, stage: str, seconds: float) -> None:
        """A stage of its load, by its name in LoadTimes, has ended."""
        version.took(**{stage: seconds})
        self._moves.append(AdapterMove(_own_id(version), stage, seconds))

    def take_moves(self) -> tuple[AdapterMove, ...]:
        """What adapters did since the last call, oldest first; the last of it, if it was much."""
        moves = tuple(self._moves)
        self._moves.clear()
        return moves

    def admit(self, lease: Lease, versions: Iterable[Version]) -> None:
        """Let ``lease`` wait for ``versions``, or have them at once."""
        lease.versions = tuple(versions)
        for version in lease.versions:
            version.leases.add(lease)
        self.leases[lease] = None
        if not lease.versions:  # the base model alone takes no room
            self._settle(lease, None)
        elif not len(self.waiting) and all(v.device is not None for v in lease.versions):
            self._grant(lease.versions, (lease,))  # nobody is passed over, and nothing makes room
        else:
            self.waiting.put(lease)
            self.advance()

    def release(self, lease: Lease) -> None:
        """End ``lease``; idempotent."""
        if lease not in self.leases:
            return
        self._let_go(lease)
        del self.leases[lease]
        lease.close()
        self.advance()

    def give_back(self, leases: Iterable[Lease]) -> None:
        """Let leases wait again that were granted and have not started."""
        for lease in leases:
            if lease.granted and not lease.started:
                for version in dict.fromkeys(lease.versions):
                    self._ungrant(version)
                lease.unsettle()
                self.waiting.put(lease)
        self.advance()

    def fetched(self, version: Version) -> None:
        """A ``fetch`` job is done."""
        version.task = None
        version.fetched = True
        self._reap(version)
        self.advance()

    def loaded(self, version: Version, weights: AdapterWeights) -> None:
        """A ``read`` job gave ``weights``, in host memory."""
        self.reading.discard(version)
        version.task = None
        version.describe(weights)
        version.host = weights
        self.host.put(version)
        self._reap(version)
        self.advance()

    def load_failed(self, version: Version, error: LoraxSpecError, now: float) -> None:
        """``fetch`` or ``read`` failed: so do the leases that wait for it, and no others."""
        self.reading.discard(version)
        version.task = None
        version.error = error
        version.failed_at = now
        self._reap(version)
        self.advance()

    def placed(self, version: Version, weights: AdapterWeights) -> None:
        """A ``place`` job gave ``weights``, on the device; on CPU they are the host's own."""
        version.task = None
        version.device = weights
        if version.host is weights:
            version.host = None
            self.host.drop(version)
        for lease in tuple(version.leases):
            if lease.granted and all(other.device is not None for other in lease.versions):
                self._settle(lease, None)
        self._reap(version)
        self.advance()

    def place_failed(self, version: Version, error: LoraxSpecError) -> None:
        """A ``place`` job failed, say for want of memory; the host keeps its copy."""
        version.task = None
        self.device.drop(version)
        for lease in tuple(version.leases):
            if lease.granted:
                self._fail(lease, error)
        self._reap(version)
        self.advance()

    def retire(self, version: Version) -> None:
        """Give it to no new lease, and drop it when its last lease ends."""
        version.retired = True
        version.pinned = False
        self.retired.add(version)
        self._reap(version)
        self.advance()

    def fail_unsettled(self, error: LoraxSpecError) -> None:
        """End the waiting of every lease that is neither ready nor failed."""
        for lease in tuple(self.leases):
            if not lease.settled:
                self._fail(lease, error)

    def advance(self) -> None:
        """Settle every waiting lease that can be, then read what the others wait for."""
        departures: Departures | None = None
        for wanted, leases in self.waiting:
            error = next((version.error for version in wanted if version.error), None)
            loaded = all(version.loaded for version in wanted)
            if error is None and loaded:
                error = misfit(self.budget, self.device, wanted)
            if error is not None:
                for lease in leases:
                    self._fail(lease, error)
            elif not loaded:
                continue
            elif all(version in self.device for version in wanted):
                if departures is None or departures.leaving.keys().isdisjoint(wanted):
                    self._grant(wanted, leases)
            elif departures is None and self._make_room(wanted):
                self._grant(wanted, leases)
            else:
                departures = departures or self._departures()
                departures.add(wanted)
        self._recall(departures.leaving if departures else ())
        self._use_host()

    def _departures(self) -> Departures:
        """Who makes room for those in the line: the idle, then those whose turn is over."""
        now, idle = self._clock(), [version for version in self.device if version.idle]
        late = [version for version in self.device if self._turn_is_over(version, now)]
        # Turns of one length keep an order, so that nobody is called in and let go in alternation.
        late.sort(key=lambda version: (version.turn_began, version.location.adapter_id))
        return Departures(
            self.budget,
            self.device,
            [*idle, *late],
            lambda version: version.idle or self._turn_is_over(version, now),
        )

    def _turn_is_over(self, version: Version, now: float) -> bool:
        began = version.turn_began
        return began is not None and now - began >= self._cycle_time and not version.pinned

    def _make_room(self, wanted: Wanted) -> bool:
        victims = evictions(self.budget, self.device, wanted)
        for version in victims or ():
            self._evict(version)
        return victims is not None

    def _grant(self, wanted: Wanted, leases: Iterable[Lease]) -> None:
        for version in dict.fromkeys(wanted):
            if version not in self.device:
                self.device.put(version)
                self._begin("place", version)
            self.device.touch(version)
        there = all(version.device is not None for version in wanted)
        for lease in leases:
            self.waiting.drop(lease)
            lease.granted = True
            for version in dict.fromkeys(wanted):
                version.grants += 1
            if there:
                self._settle(lease, None)

    def _recall(self, leaving: Iterable[Version]) -> None:
        """A retired version could not be read again, and no more leases come for it anyway."""
        recalled = frozenset(
            lease
            for lease in (lease for version in leaving for lease in version.leases)
            if lease.granted and not lease.started and not any(v.retired for v in lease.versions)
        )
        if recalled != self.recalled:
            self.recalled = recalled
            self._settled = self._settled or bool(recalled)

    def _evict(self, version: Version) -> None:
        """From the device; what lies in host memory anyway stays there."""
        self.device.drop(version)
        self._moves.append(AdapterMove(_own_id(version), "evict"))
        version.turn_began = None
        weights, version.device = version.device, None
        if version.host is None and weights is not None and weights.slab.data.is_cpu:
            version.host = weights
        if version.host is not None:
            self.host.put(version)

    def _begin(self, task: Task, version: Version) -> None:
        version.task = task
        self._jobs.append(Job(task, version))

    def _use_host(self) -> None:
        """Read ahead for those who wait, within the limit."""
        line, limit = self.waiting.wanted(), self.budget.host_bytes
        for version in to_fetch(line):
            self._begin("fetch", version)
        self._trim_host(line)
        reads = to_read(line, self.host, self.device, self.reading, limit)
        for version in reads:
            self.reading.add(version)
            self._begin("read", version)
        if reads:
            self._trim_host(line)

    def _trim_host(self, line: list[Wanted]) -> None:
        for version in to_drop(line, self.host, self.reading, self.budget.host_bytes):
            version.host = None
            self.host.drop(version)

    def _settle(self, lease: Lease, error: LoraxSpecError | None) -> None:
        lease.settle(error)
        self._settled = True

    def _fail(self, lease: Lease, error: LoraxSpecError) -> None:
        self._let_go(lease)
        self._settle(lease, error)

    def _let_go(self, lease: Lease) -> None:
        self.waiting.drop(lease)
        for version in dict.fromkeys(lease.versions):
            version.leases.discard(lease)
            if lease.granted:
                self._ungrant(version)
                self.device.touch(version)
            self._reap(version)
        lease.granted = False
        lease.versions = ()

    def _ungrant(self, version: Version) -> None:
        version.grants -= 1
        if version.grants == 0:
            version.turn_began = None

    def _reap(self, version: Version) -> None:
        """Drop a retired version that nobody holds and no job works on."""
        if version.retired and not version.leases and version.task is None:
            version.host = version.device = None
            self.host.drop(version)
            self.device.drop(version)
            self.retired.discard(version)


def _own_id(version: Version) -> str:
    return version.ref.adapter_id if isinstance(version.ref, AdapterRef) else ""
