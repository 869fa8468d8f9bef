"""Loading an adapter into a running engine: how long it takes, and what the others lose by it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from statistics import median

import torch

from lorax_spec.adapters.manager import AdapterManager
from lorax_spec.adapters.room import Budget
from lorax_spec.adapters.shape import shape_of
from lorax_spec.adapters.sources import SourceSettings, open_sources
from lorax_spec.bench.gpu.figures import Figure
from lorax_spec.bench.gpu.stage import Stage
from lorax_spec.bench.streams import Streams
from lorax_spec.bench.workload import prompts
from lorax_spec.types import AdapterRef

_FROM_HOST, _FROM_DISK, _LOST = 5.0, 40.0, 1.0
_STREAMS = 8
#: Steps that are watched at least while something is loaded.
_FEWEST = 4


def figures(stage: Stage) -> Iterator[Figure]:
    """From host memory by a manager of its own, on whose device there is room for one adapter."""
    kinds = {"LoRA": stage.adapters.loras[:2], "Medusa": stage.adapters.medusas[:2]}
    streams = Streams(stage.core, prompts(("code",), _STREAMS, stage.tokenizer))
    manager = _manager(stage)
    try:
        for kind, ids in kinds.items():
            info = manager.load(AdapterRef(ids[0]))
            what = f"hot load, {kind} of {info.bytes / 1e6:.0f} MB"
            manager.load(AdapterRef(ids[1]))
            host = [_seconds(manager, ids[i % 2]) for i in range(stage.sizes.loads)]
            found = 1000 * median(host)
            yield Figure(f"{what}: from host memory", found, " ms", _FROM_HOST, at_most=True)
    finally:
        manager.close()
    try:
        yield from _beside(stage, streams, kinds)
    finally:
        streams.end()


def _beside(stage: Stage, streams: Streams, kinds: Mapping[str, Sequence[str]]) -> Iterator[Figure]:
    with ThreadPoolExecutor(1) as beside:
        for kind, ids in kinds.items():
            disk, lost = [], []
            for _ in range(stage.sizes.loads):
                fresh = stage.adapters.fresh(ids[0])
                seconds, steps = _load_beside(streams, fresh, beside)
                disk.append(seconds)
                lost.append(steps)
                stage.core.adapters.unload(fresh)
            found = 1000 * median(disk)
            what = f"hot load, {kind}, {_STREAMS} requests running"
            yield Figure(f"{what}: from disk", found, " ms", _FROM_DISK, at_most=True)
            worst = max(lost)
            yield Figure(f"{what}: steps they lose", worst, "", _LOST, at_most=True)


def _seconds(manager: AdapterManager, adapter_id: str) -> float:
    began = time.perf_counter()
    manager.load(AdapterRef(adapter_id))
    return time.perf_counter() - began


def _load_beside(streams: Streams, adapter_id: str, beside: Executor) -> tuple[float, float]:
    """(seconds, quiet steps' times that the running requests came too late)"""
    took: list[float] = []

    def timed() -> None:
        began = time.perf_counter()
        streams.core.adapters.load(AdapterRef(adapter_id))
        took.append(time.perf_counter() - began)

    def act() -> list[float]:
        loading = beside.submit(timed)
        times: list[float] = []
        while not loading.done() or len(times) < _FEWEST:
            times.append(streams.step()[0])
        loading.result()
        return times

    window = streams.watch(act)
    quiet = median(window.quiet)
    return took[0], sum(window.within) / quiet - len(window.within)


def _manager(stage: Stage) -> AdapterManager:
    """It never computes, so a model without numbers gives it the shapes."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(stage.widening.config)
    room = 8 * (stage.cost.lora_bytes(stage.sizes.rank) + stage.cost.medusa_bytes(4))
    return AdapterManager(
        open_sources(SourceSettings({"": stage.adapters.root})),
        shape_of(model, "wide"),
        dtype=stage.dtype,
        device=stage.device,
        budget=Budget(room, 1, room),
    )
