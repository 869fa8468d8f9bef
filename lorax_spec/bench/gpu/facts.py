"""What machine it is, and what runs on it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from typing import Any

import torch

from lorax_spec.bench.machine import circumstances, versions

_PACKAGES = ("triton", "peft", "flash-attn", "xgrammar", "safetensors")
_ASKED = (
    "name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,power.limit,"
    "temperature.gpu,persistence_mode"
)


def facts() -> dict[str, Any]:
    """Names and versions; of a GPU its clocks as they are, for they are left alone.

    ``COMMIT`` in the environment stands in for that of a tree without its history.
    """
    found = circumstances()
    found["commit"] = found["commit"] or os.environ.get("COMMIT", "")
    found["versions"] |= versions(_PACKAGES)
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "l2_mib": properties.L2_cache_size / 2**20,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "nvidia-smi": dict(_smi(_ASKED.split(","))),
        }
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """For people."""
    gpu = found.get("gpu")
    smi = gpu["nvidia-smi"] if gpu else {}
    named = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return [
        f"{gpu['name']}, {gpu['memory_gib']} GiB" if gpu else "no GPU",
        *([", ".join(f"{key} {value}" for key, value in smi.items())] if smi else []),
        f"Python {found['python']}, {named}",
        f"commit {found['commit'] or 'unknown'}, {found['time']}",
    ]


def _smi(asked: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Nothing where there is no nvidia-smi, or no answer."""
    asked = list(asked)
    command = ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    answers = done.stdout.splitlines()[0].split(", ")
    return zip(asked, answers, strict=False)
