"""Which adapter lies where, and who gets room next.

Plain state without threads or files: the manager holds a lock around every call, and does the
work that ``take_jobs`` asks for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lorax_spec.adapters.lease import Lease
from lorax_spec.adapters.tier import Tier
from lorax_spec.adapters.version import Task, Version
from lorax_spec.adapters.weights import AdapterWeights
from lorax_spec.errors import AdapterMismatch, LoraxSpecError, Overloaded


@dataclass(frozen=True)
class Budget:
    """At most ``device_bytes`` in at most ``max_active`` adapters on the device at a time.

    ``host_bytes`` bounds what is kept in host memory: evicted adapters, and those that were read
    and wait for room (of these the first lease's may exceed it, so that it can go on).
    """

    device_bytes: int
    max_active: int
    host_bytes: int


@dataclass(frozen=True)
class Job:
    """Fetch a version's files, read them into host memory, or place it on the device."""

    task: Task
    version: Version


class Residency:
    """Grants leases in the order they came.

    All adapters of a lease get room at once or none does, so no two leases can hold what the other
    needs.  A lease whose adapters still load holds up nobody.  A lease that waits for room may be
    overtaken, by leases that fit into what is there, at most ``max_overtakes`` times; after that
    nobody is granted before it.  So it waits, at the very most, until all leases granted before
    it, ``max_overtakes`` later ones, and the leases that waited for room before it are released.
    """

    def __init__(self, budget: Budget, max_overtakes: int) -> None:
        self.budget = budget
        self.device = Tier()
        self.host = Tier()
        self.leases: dict[Lease, None] = {}
        self.retired: set[Version] = set()
        self.reading: set[Version] = set()
        self._max_overtakes = max_overtakes
        self.waiting: dict[Lease, None] = {}
        self._jobs: list[Job] = []
        self._settled = False

    def take_jobs(self) -> list[Job]:
        """Work to be done now, in order; each is handed out once."""
        jobs, self._jobs = self._jobs, []
        return jobs

    def take_settled(self) -> bool:
        """Whether a lease became ready or failed since the last call."""
        settled, self._settled = self._settled, False
        return settled

    def admit(self, lease: Lease, versions: Iterable[Version]) -> None:
        """Let ``lease`` wait for ``versions``, or have them at once."""
        lease.versions = tuple(versions)
        for version in lease.versions:
            version.leases.add(lease)
        self.leases[lease] = None
        if not lease.versions:  # the base model alone takes no room, so it overtakes nobody
            self._settle(lease, None)
            return
        self.waiting[lease] = None
        self.advance()

    def release(self, lease: Lease) -> None:
        """End ``lease``; idempotent."""
        if lease not in self.leases:
            return
        self._let_go(lease)
        del self.leases[lease]
        lease.close()
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
        """A ``place`` job failed, for want of device memory say; the host keeps its copy."""
        version.task = None
        self.device.drop(version)
        for lease in tuple(version.leases):
            if lease.granted:
                self._fail(lease, error)
        self._reap(version)
        self.advance()

    def retire(self, version: Version) -> None:
        """Give ``version`` to no new lease, and drop it when its last lease ends."""
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
        ahead: list[Lease] = []
        for lease in tuple(self.waiting):
            error = next((version.error for version in lease.versions if version.error), None)
            loaded = all(version.loaded for version in lease.versions)
            if error is None and loaded:
                error = self._misfit(lease)
            if error is not None:
                self._fail(lease, error)
            elif not loaded or any(one.overtaken >= self._max_overtakes for one in ahead):
                continue
            elif self._make_room(lease):
                for one in ahead:
                    one.overtaken += 1
                self._grant(lease)
            else:
                ahead.append(lease)
        self._trim_host()
        self._stage()

    def _misfit(self, lease: Lease) -> LoraxSpecError | None:
        """Why ``lease`` could not be granted even if every other lease ended."""
        wanted = set(lease.versions)
        need = sum(version.nbytes for version in wanted)
        limit, most = self.budget.device_bytes, self.budget.max_active
        if need > limit or len(wanted) > most:
            return AdapterMismatch(
                f"{len(wanted)} adapters of {need} bytes never fit: "
                f"there is room for {most} of {limit} bytes together"
            )
        pinned = [one for one in self.device if one.pinned and one not in wanted]
        kept = sum(version.nbytes for version in pinned)
        if need + kept > limit or len(wanted) + len(pinned) > most:
            return Overloaded(
                f"{len(wanted)} adapters of {need} bytes do not fit beside {len(pinned)} pinned "
                f"adapters of {kept} bytes: there is room for {most} of {limit} bytes together"
            )
        return None

    def _make_room(self, lease: Lease) -> bool:
        """Evict idle versions, least recently used first, if that makes room for all of lease."""
        missing = {version for version in lease.versions if version not in self.device}
        bytes_short = self.device.bytes - self.budget.device_bytes
        bytes_short += sum(version.nbytes for version in missing)
        slots_short = len(self.device) + len(missing) - self.budget.max_active
        victims = []
        for version in self.device if missing else ():
            if bytes_short <= 0 and slots_short <= 0:
                break
            if version.idle and version not in lease.versions:
                victims.append(version)
                bytes_short -= version.nbytes
                slots_short -= 1
        if missing and (bytes_short > 0 or slots_short > 0):
            return False
        for version in victims:
            self._evict(version)
        return True

    def _grant(self, lease: Lease) -> None:
        del self.waiting[lease]
        lease.granted = True
        for version in dict.fromkeys(lease.versions):
            version.grants += 1
            if version not in self.device:
                self.device.put(version)
                self._begin("place", version)
            self.device.touch(version)
        if all(version.device is not None for version in lease.versions):
            self._settle(lease, None)

    def _evict(self, version: Version) -> None:
        """From the device; what lies in host memory anyway stays there."""
        self.device.drop(version)
        weights, version.device = version.device, None
        if version.host is None and weights is not None and weights.slab.data.is_cpu:
            version.host = weights
        if version.host is not None:
            self.host.put(version)

    def _stage(self) -> None:
        """Fetch what is absent; read whole leases or none, oldest first, within the host's limit.

        A part of a lease would wait in host memory for the other part, which might find no room.
        """
        staged = sum(version.nbytes for version in self.reading)
        staged += sum(one.nbytes for one in self.host if one.leases and one not in self.device)
        for version in [version for lease in self.waiting for version in lease.versions]:
            if version.absent and not version.fetched:
                self._begin("fetch", version)
        fetched = [one for one in self.waiting if all(v.fetched for v in one.versions)]
        for place, lease in enumerate(fetched):
            absent = [version for version in dict.fromkeys(lease.versions) if version.absent]
            need = sum(version.nbytes for version in absent)
            if place and absent and staged + need > self.budget.host_bytes:
                break
            staged += need
            for version in absent:
                self.reading.add(version)
                self._begin("read", version)

    def _begin(self, task: Task, version: Version) -> None:
        version.task = task
        self._jobs.append(Job(task, version))

    def _trim_host(self) -> None:
        # What is being placed leaves host memory where the device shares it.
        leaving = sum(version.nbytes for version in self.host if version.placing)
        for version in self.host:
            if self.host.bytes - leaving <= self.budget.host_bytes:
                break
            wanted = version.leases and version.device is None
            if not wanted and not version.placing:
                version.host = None
                self.host.drop(version)

    def _settle(self, lease: Lease, error: LoraxSpecError | None) -> None:
        lease.settle(error)
        self._settled = True

    def _fail(self, lease: Lease, error: LoraxSpecError) -> None:
        self._let_go(lease)
        self._settle(lease, error)

    def _let_go(self, lease: Lease) -> None:
        self.waiting.pop(lease, None)
        for version in dict.fromkeys(lease.versions):
            version.leases.discard(lease)
            if lease.granted:
                version.grants -= 1
                self.device.touch(version)
            self._reap(version)
        lease.granted = False
        lease.versions = ()

    def _reap(self, version: Version) -> None:
        """Drop a retired version that nobody holds and no job works on."""
        if version.retired and not version.leases and version.task is None:
            version.host = version.device = None
            self.host.drop(version)
            self.device.drop(version)
            self.retired.discard(version)
