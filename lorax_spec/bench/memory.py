"""Resident memory of an idle server, process by process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from lorax_spec.bench.report import Check, Report, Value
from lorax_spec.bench.settings import Settings
from lorax_spec.errors import Unavailable

_MIB = 2**20
_START_LIMIT = 120.0  # seconds
_SETTLING = 5.0  # seconds
_ROLES = ("router", "worker")


def measure(settings: Settings) -> Report:
    with _server() as server:
        for _ in settings.track(range(10), 10, "letting the server settle"):
            time.sleep(_SETTLING / 10)
        memory = {role: _child(server, role).memory_full_info() for role in _ROLES}
        supervisor = psutil.Process(server.pid).memory_full_info()
    rows: list[dict[str, Value]] = [
        {"process": role, "resident MiB": info.rss / _MIB, "of its own MiB": info.uss / _MIB}
        for role, info in (*memory.items(), ("serve, which watches them", supervisor))
    ]
    both = sum(info.rss for info in memory.values()) / _MIB
    return Report(
        "an idle server on the embedded model",
        rows,
        [
            Check("router, resident", memory["router"].rss / _MIB, 200.0, " MiB", at_most=True),
            Check("router and worker, resident", both, 1536.0, " MiB", at_most=True),
        ],
        ["Resident counts shared pages in each process; of its own does not."],
    )


@contextmanager
def _server() -> Iterator[subprocess.Popen[str]]:
    """``lorax-spec serve`` on free ports, from its ready line on.

    Raises Unavailable where that does not come in time.
    """
    command = [sys.executable, "-m", "lorax_spec.cli", "serve", "--port", "0", "--grpc-port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        too_late = threading.Timer(_START_LIMIT, server.kill)
        too_late.start()
        try:
            if not server.stdout.readline().startswith("ready "):
                raise Unavailable("the server did not become ready; try lorax-spec serve")
            too_late.cancel()
            yield server
        finally:
            too_late.cancel()
            server.terminate()


def _child(server: subprocess.Popen[str], role: str) -> psutil.Process:
    for process in psutil.Process(server.pid).children(recursive=True):
        if role in process.cmdline():
            return process
    raise Unavailable(f"the server runs no {role}")
