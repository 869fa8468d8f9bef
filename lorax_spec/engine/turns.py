"""Who starts next, of those that may."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator

from lorax_spec.engine.sequence import Sequence
from lorax_spec.types import AdapterRef, MergedRef

Adapter = AdapterRef | MergedRef | None


class Turns:
    """Tenants take turns, a tenant's adapters take turns, and of an adapter the oldest is first.

    A tenant is who sent an API token; without one, every adapter is a tenant of its own, and so is
    the base model.  So where never more than T tenants wait at one time, and one of them never on
    more than A adapters, the oldest sequence of an adapter of its starts after at most T A - 1
    others, however many wait and whatever still comes.
    """

    def __init__(self) -> None:
        self._tenants: OrderedDict[object, OrderedDict[Adapter, list[Sequence]]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sequence]:
        for adapters in self._tenants.values():
            for queue in adapters.values():
                yield from queue

    def put(self, sequence: Sequence) -> None:
        """Let it wait for its turn, by its ``number`` among those of its adapter."""
        tenant, adapter = _place(sequence)
        queue = self._tenants.setdefault(tenant, OrderedDict()).setdefault(adapter, [])
        insort(queue, sequence, key=_number)
        self._count += 1

    def first(self) -> Sequence | None:
        """Whose turn it is."""
        if not self._tenants:
            return None
        adapters = next(iter(self._tenants.values()))
        return next(iter(adapters.values()))[0]

    def start(self, sequence: Sequence) -> None:
        """Take out whose turn it is; its adapter and its tenant go behind the others."""
        tenant, adapter = _place(sequence)
        self._tenants[tenant].move_to_end(adapter)
        self._tenants.move_to_end(tenant)
        self.remove(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take out any sequence; nobody's turn changes."""
        tenant, adapter = _place(sequence)
        adapters = self._tenants[tenant]
        queue = adapters[adapter]
        del queue[bisect_left(queue, sequence.number, key=_number)]
        self._count -= 1
        if not queue:
            del adapters[adapter]
        if not adapters:
            del self._tenants[tenant]


def _number(sequence: Sequence) -> int:
    return sequence.number


def _place(sequence: Sequence) -> tuple[object, Adapter]:
    """Whose sequence it is, and which of that tenant's queues it belongs to."""
    adapter = sequence.request.adapter
    parts = adapter.parts if isinstance(adapter, MergedRef) else (adapter,)
    heads = sequence.request.medusa
    token = next((ref.api_token for ref in (*parts, heads) if ref and ref.api_token), "")
    return token or adapter, adapter
