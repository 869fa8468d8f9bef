"""The share of a step in which the device has nothing to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from torch.profiler import ProfilerActivity, profile

from lorax_spec.bench.gpu.figures import Figure
from lorax_spec.bench.gpu.stage import Stage
from lorax_spec.bench.gpu.steps import random_prompts

_MOST = 5.0


def figures(stage: Stage) -> Iterator[Figure]:
    """Seconds that kernels ran, of profiled steps, by those that the same steps take unwatched.

    On a CPU torch's operations stand for kernels.
    """
    sizes = stage.sizes
    prompts = random_prompts(1, sizes.context, stage.cost.vocabulary, stage.seed)
    window = stage.window()
    window(prompts)
    seconds = min(window(prompts).seconds for _ in range(max(2, sizes.rounds)))
    on_cuda = stage.device.type == "cuda"
    profiled = profile(activities=[ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU])
    replace(window, watch=lambda: profiled)(prompts)
    busy = covered(_spans(profiled.events() or (), "CUDA" if on_cuda else "CPU"))
    share = max(0.0, 1 - busy / seconds)
    yield Figure("host gap, batch 1: share of a step", 100 * share, " %", _MOST, at_most=True)


def _spans(events: Iterable[Any], device: str) -> Iterator[tuple[float, float]]:
    """(start, end) of each, in seconds."""
    for event in events:
        if event.device_type.name == device:
            yield event.time_range.start / 1e6, event.time_range.end / 1e6


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How long at least one of ``spans`` ran."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
