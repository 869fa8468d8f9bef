"""Which worker takes a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: A worker that holds the adapter may have this many requests, times and plus, more than the
#: idlest before the adapter is loaded there as well.
_SHARE = 2.0
_SLACK = 4


@dataclass(frozen=True)
class Snapshot:
    """What the router knows of a worker: its requests, and the adapters on its device."""

    requests: int
    device_adapters: frozenset[str] = frozenset()


def choose(adapters: Sequence[str], workers: Sequence[Snapshot]) -> int:
    """The index of the worker for a request that needs these adapters.

    The idlest of the workers that hold most of them on the device, unless it is loaded beyond its
    share: then the idlest of all.  Raises ValueError where there is no worker.
    """
    idlest = min(range(len(workers)), key=lambda index: workers[index].requests)
    home = min(
        range(len(workers)),
        key=lambda index: (
            -len(workers[index].device_adapters.intersection(adapters)),
            workers[index].requests,
        ),
    )
    limit = _SHARE * workers[idlest].requests + _SLACK
    return home if workers[home].requests <= limit else idlest
