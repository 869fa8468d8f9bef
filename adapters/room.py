"""What fits on the device, and who must go for whom: the policy, without doing anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lorax_spec.adapters.tier import Tier
from lorax_spec.adapters.version import Version
from lorax_spec.errors import AdapterMismatch, LoraxSpecError, Overloaded


@dataclass(frozen=True)
class Budget:
    """At most ``device_bytes`` in at most ``max_active`` adapters on the device at a time.

    ``host_bytes`` bounds what is kept in host memory: evicted adapters, and those that were read
    and wait for room (of these the first queue's may exceed it, so that it can go on).
    """

    device_bytes: int
    max_active: int
    host_bytes: int


def misfit(budget: Budget, device: Tier, wanted: Iterable[Version]) -> LoraxSpecError | None:
    """Why there is no room for ``wanted`` together even if every lease ended."""
    versions = set(wanted)
    need = sum(version.nbytes for version in versions)
    limit, most = budget.device_bytes, budget.max_active
    if need > limit or len(versions) > most:
        return AdapterMismatch(
            f"{len(versions)} adapters of {need} bytes never fit: "
            f"there is room for {most} of {limit} bytes together"
        )
    pinned = [one for one in device if one.pinned and one not in versions]
    kept = sum(version.nbytes for version in pinned)
    if need + kept > limit or len(versions) + len(pinned) > most:
        return Overloaded(
            f"{len(versions)} adapters of {need} bytes do not fit beside {len(pinned)} pinned "
            f"adapters of {kept} bytes: there is room for {most} of {limit} bytes together"
        )
    return None


def evictions(budget: Budget, device: Tier, wanted: Iterable[Version]) -> list[Version] | None:
    """Idle adapters whose leaving makes room for ``wanted``, the least recently used; None where
    all of them together do not."""
    departures = Departures(budget, device, device, lambda version: version.idle)
    departures.add(wanted)
    return None if departures.short() else list(departures.leaving)


class Departures:
    """Who leaves the device for those who wait, found for one after the other.

    ``candidates`` go in their order, where they ``may_leave``, as many as are needed; nobody leaves
    for one who wants it too.
    """

    def __init__(
        self,
        budget: Budget,
        device: Tier,
        candidates: Iterable[Version],
        may_leave: Callable[[Version], bool],
    ) -> None:
        self.leaving: dict[Version, None] = {}
        self._device = device
        self._candidates = iter(candidates)
        self._may_leave = may_leave
        self._bytes = budget.device_bytes - device.bytes
        self._slots = budget.max_active - len(device)
        self._wanted: set[Version] = set()

    def short(self) -> bool:
        """Whether there is less room than is wanted, even when all of ``leaving`` have left."""
        return self._bytes < 0 or self._slots < 0

    def add(self, wanted: Iterable[Version]) -> None:
        """Make room for one more who waits."""
        for version in set(wanted) - self._wanted:
            self._wanted.add(version)
            if version not in self._device:
                self._bytes -= version.nbytes
                self._slots -= 1
        if not self.short():
            return
        for version in self._candidates:
            if version not in self._wanted and self._may_leave(version):
                self.leaving[version] = None
                self._bytes += version.nbytes
                self._slots += 1
            if not self.short():
                return
