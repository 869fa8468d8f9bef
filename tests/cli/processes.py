"""Starting the real command line, and waiting for what it says."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import psutil

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
COMMAND = [sys.executable, "-m", "lorax_spec.cli"]


def run(*words: str, timeout: float = 60, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command to its end, as a person without a terminal would see it."""
    return subprocess.run(
        [*COMMAND, *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**ENVIRONMENT, "COLUMNS": "200", **variables},
    )


class Server:
    """``lorax-spec serve`` on free ports."""

    def __init__(self, *words: str, **variables: str) -> None:
        self._process = subprocess.Popen(
            [*COMMAND, "serve", "--port", "0", "--grpc-port", "0", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**ENVIRONMENT, **variables},
        )
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._first_line: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read_stdout, daemon=True).start()
        threading.Thread(target=self._read_stderr, daemon=True).start()
        self.ready_line = self._first_line.get(timeout=60)
        found = re.fullmatch(r"ready grpc=(\S+:\d+) http=(\S+:\d+)", self.ready_line)
        assert found, (self.ready_line, self.stderr)
        self.grpc, self.http = found.groups()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def child(self, role: str) -> psutil.Process:
        """The live process of ``worker`` or ``router``."""
        for process in psutil.Process(self.pid).children():
            if process.status() != psutil.STATUS_ZOMBIE and role in process.cmdline():
                return process
        raise LookupError(role)

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        return self._process.wait(60)

    def _read_stdout(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.stdout.append(line.rstrip())
            self._first_line.put(line.rstrip())
        self._first_line.put("")

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        self.stderr.extend(line.rstrip() for line in self._process.stderr)


def eventually(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until it holds; fails where it does not in time."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
