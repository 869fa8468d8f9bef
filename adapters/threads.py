"""The threads that look up, fetch, read and copy adapters."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Literal

from lorax_spec.adapters.host_threads import HostThreads
from lorax_spec.adapters.version import Task

#: Questions to one host, and downloads from it, at one time.
_LOOK_UPS, _FETCHES = 8, 4
_READS = 2


class LoadThreads:
    """A pool to each task, so that no copy waits behind a read, and no read behind a download; and
    of what other machines must answer, a pool to each of them.

    An ``executor`` given does everything instead, and is not shut down.
    """

    def __init__(self, executor: Executor | None) -> None:
        self._executor = executor
        self._closed = False
        self._hosts = {
            "look_up": HostThreads("look-up", _LOOK_UPS),
            "fetch": HostThreads("fetch", _FETCHES),
        }
        self._pools = (
            {}
            if executor
            else {
                "read": ThreadPoolExecutor(_READS, "adapter-read"),
                "place": ThreadPoolExecutor(1, "adapter-place"),
            }
        )

    def submit(self, task: Task | Literal["look_up"], host: str, call: Callable[[], None]) -> None:
        """Have ``call``, which raises nothing, run; after ``close`` it does not.  Only look-ups and
        fetches heed ``host``."""
        if self._closed:
            return
        if self._executor is not None:
            self._executor.submit(call)
        elif task in self._hosts:
            self._hosts[task].submit(host, call)
        else:
            self._pools[task].submit(call)

    def close(self) -> None:
        """Wait for reads and copies that have begun; downloads are left to themselves."""
        self._closed = True
        for hosts in self._hosts.values():
            hosts.close()
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)
