"""Worker and router processes for tests."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: The real engine needs 6 s alone, and far more beside a training.
_START_SECONDS = 120


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A python process and the first line it prints; killed in the end, or when it says nothing."""
    child = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )
    assert child.stdout is not None
    deadline = threading.Timer(_START_SECONDS, child.kill)
    deadline.start()
    try:
        line = child.stdout.readline().strip()
        deadline.cancel()
        assert line, f"{arguments} ended, or said nothing within {_START_SECONDS} s"
        yield child, line
    finally:
        deadline.cancel()
        child.kill()
        child.wait()
        child.stdout.close()


@contextmanager
def fake_worker(
    listen: str = "127.0.0.1:0", step_seconds: float = 0.005, otlp_endpoint: str = ""
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A worker process on the fake engine, and its address."""
    words = [listen, str(step_seconds), *([otlp_endpoint] if otlp_endpoint else [])]
    with process("-m", "tests.worker.fake_core", *words) as running:
        yield running
