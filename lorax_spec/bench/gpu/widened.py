"""The embedded model widened on the device, with its adapters, and in an engine."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from lorax_spec.bench.gpu.figures import Figure
from lorax_spec.bench.gpu.stage import Stage
from lorax_spec.bench.gpu.timing import wait_for


def figures(stage: Stage) -> Iterator[Figure]:
    """Later parts find what is made here.  Bytes of tensors that hold zeros alone are none."""
    began = time.perf_counter()
    model = stage.widening.model()
    wait_for(stage.device)
    what = f"{stage.target} shape, {stage.variant} variant"
    yield Figure(f"{what}: seconds to make", time.perf_counter() - began, " s")
    yield Figure(f"{what}: weights", stage.cost.weight_bytes / 1e9, " GB")
    yield Figure(f"{what}: numbers that are zero", 100 * _zeros(model), " %")
    del model
    began = time.perf_counter()
    _ = stage.adapters
    yield Figure("its adapters: seconds to write", time.perf_counter() - began, " s")
    began = time.perf_counter()
    _ = stage.core
    wait_for(stage.device)
    yield Figure("the engine: seconds to start", time.perf_counter() - began, " s")


def _zeros(model: torch.nn.Module) -> float:
    """The share of all parameters."""
    numbers = zeros = 0
    for parameter in model.parameters():
        numbers += parameter.numel()
        zeros += parameter.numel() - int(parameter.count_nonzero())
    return zeros / numbers
