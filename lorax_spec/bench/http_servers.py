"""A router process before a worker process, on free ports of this machine."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from lorax_spec.errors import Unavailable

_START_LIMIT = 120.0  # seconds
_MOST_REQUESTS = "2000"
_COMMAND = "lorax_spec.cli"


@dataclass(frozen=True)
class Server:
    """Addresses of both protocols, and the router's process."""

    grpc: str
    http: str
    router: psutil.Process

    @property
    def cpu_seconds(self) -> float:
        """The router's, since it began; in steps of 10 ms."""
        times = self.router.cpu_times()
        return float(times.user + times.system)


@contextmanager
def embedded_model() -> Iterator[Server]:
    """One token a step: no drafts."""
    with _process(_COMMAND, "worker", "--dtype", "float32") as (_, line), _router(line) as server:
        yield server


@contextmanager
def stub(step_seconds: float) -> Iterator[Server]:
    with (
        _process("lorax_spec.bench.http_stub", str(step_seconds)) as (_, line),
        _router(line) as server,
    ):
        yield server


@contextmanager
def _router(worker: str) -> Iterator[Server]:
    words = ("--worker", worker.split()[1], "--port", "0", "--grpc-port", "0")
    with _process(_COMMAND, "router", *words, "--max-concurrent-requests", _MOST_REQUESTS) as (
        process,
        line,
    ):
        grpc, http = (word.partition("=")[2] for word in line.split()[1:])
        yield Server(grpc, http, psutil.Process(process.pid))


@contextmanager
def _process(module: str, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Python process and the line by which it is ready.

    Raises Unavailable where that does not come in time.
    """
    with subprocess.Popen(
        [sys.executable, "-m", module, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        too_late = threading.Timer(_START_LIMIT, process.kill)
        too_late.start()
        try:
            line = process.stdout.readline()
            if not line.startswith("ready "):
                raise Unavailable(f"{module} did not become ready: {' '.join(words)}")
            too_late.cancel()
            yield process, line
        finally:
            too_late.cancel()
            process.terminate()
