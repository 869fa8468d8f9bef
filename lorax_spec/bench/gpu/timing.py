"""Seconds on the device: by its own events, or by the wall's clock on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

#: Written between two runs, so that neither finds its inputs in the cache.
_FLUSH_BYTES = 256 << 20
_WARMING = 3


def wait_for(device: torch.device) -> None:
    """Until all that was given to it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def typical_seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The median of ``repeats`` runs, each of which finds the cache full of something else.

    On CUDA it is a captured graph that is timed, where ``run`` can be captured: launches from
    Python would be a part of the time otherwise.
    """
    if device.type != "cuda":
        run()
        return median(_wall_seconds(run) for _ in range(repeats))
    replay = captured(run) or run
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device)
    times = []
    for _ in range(repeats):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        began.record()
        replay()
        ended.record()
        times.append((began, ended))
    torch.cuda.synchronize(device)
    return float(median(began.elapsed_time(ended) for began, ended in times)) / 1000


def captured(run: Callable[[], object]) -> Callable[[], object] | None:
    """The replay of what ``run`` does, after it ran a few times; None where that is impossible."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARMING):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph.replay


def _wall_seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
