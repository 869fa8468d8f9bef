"""The clock that costs are measured by."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

#: Seconds from any beginning.
Clock = Callable[[], float]


def clock_of(device: torch.device) -> Clock:
    """Of the stepping thread on a CPU: there the thread does the work, and time that other
    processes took from it says nothing about rows.  The wall's on a GPU, which works by itself."""
    return time.thread_time if device.type == "cpu" else time.perf_counter
