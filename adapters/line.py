"""Those who wait for adapters, a queue to each set of them."""

from __future__ import annotations

from collections.abc import Iterator

from lorax_spec.adapters.lease import Lease
from lorax_spec.adapters.version import Version

#: The adapters of a lease, in the order in which it asked for them.
Wanted = tuple[Version, ...]


class Line:
    """Queues in the order in which they began to wait; the leases of each get room together."""

    def __init__(self) -> None:
        self._queues: dict[Wanted, dict[Lease, None]] = {}

    def __contains__(self, lease: Lease) -> bool:
        return lease in self._queues.get(lease.versions, ())

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[tuple[Wanted, tuple[Lease, ...]]]:
        return iter([(wanted, tuple(leases)) for wanted, leases in self._queues.items()])

    def wanted(self) -> list[Wanted]:
        """What each queue waits for."""
        return list(self._queues)

    def put(self, lease: Lease) -> None:
        """Into its queue, which is the last where it was empty."""
        self._queues.setdefault(lease.versions, {})[lease] = None

    def drop(self, lease: Lease) -> None:
        """Take out a lease, if it is here."""
        queue = self._queues.get(lease.versions, {})
        queue.pop(lease, None)
        if not queue:
            self._queues.pop(lease.versions, None)
