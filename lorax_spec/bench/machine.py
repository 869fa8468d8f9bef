"""Under which circumstances a figure was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

_PACKAGES = ("lorax-spec", "torch", "transformers", "numpy")


def circumstances() -> dict[str, Any]:
    """Load average over 1, 5 and 15 minutes, share of time stolen by other guests since boot,
    threads, versions, commit."""
    times = psutil.cpu_times()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": os.getloadavg(),
        "stolen": round(getattr(times, "steal", 0.0) / max(1.0, sum(times)), 4),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions(_PACKAGES),
        "commit": _commit(),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed; a source tree that only lies on the path is not."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    """The checkout's commit, with a plus where files differ from it; empty outside of one."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        return git("rev-parse", "--short", "HEAD") + "+" * bool(git("status", "--porcelain"))
    except FileNotFoundError:
        return ""
