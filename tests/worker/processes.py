"""Worker and router processes for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A python process and the first line it prints; killed in the end."""
    child = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )
    assert child.stdout is not None
    try:
        yield child, child.stdout.readline().strip()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@contextmanager
def fake_worker(
    listen: str = "127.0.0.1:0", step_seconds: float = 0.005
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A worker process on the fake engine, and its address."""
    with process("-m", "tests.worker.fake_core", listen, str(step_seconds)) as running:
        yield running
