"""Threads for what waits for others' machines."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class HostThreads:
    """At most ``per_host`` calls run for one host at a time, and no host waits for another.

    The threads are daemons: a download that crawls does not keep the process from ending.
    """

    def __init__(self, name: str, per_host: int) -> None:
        self._name = name
        self._per_host = per_host
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Callable[[], None]]] = {}
        self._running: dict[str, int] = {}
        self._closed = False

    def submit(self, host: str, call: Callable[[], None]) -> None:
        """Have ``call``, which raises nothing, run on some thread; not after ``close``."""
        with self._lock:
            if self._closed:
                return
            self._waiting.setdefault(host, deque()).append(call)
            if self._running.get(host, 0) >= self._per_host:
                return
            self._running[host] = self._running.get(host, 0) + 1
        name = f"adapter-{self._name}-{host or 'local'}"
        threading.Thread(target=self._run, args=(host,), name=name, daemon=True).start()

    def close(self) -> None:
        """Begin nothing more; what runs is left to itself."""
        with self._lock:
            self._closed = True
            self._waiting.clear()

    def _run(self, host: str) -> None:
        while True:
            with self._lock:
                waiting = self._waiting.get(host)
                if not waiting:
                    self._running[host] -= 1
                    return
                call = waiting.popleft()
            call()
