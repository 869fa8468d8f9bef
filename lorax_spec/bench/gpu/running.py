"""One part in its share of the time: what goes wrong in it stays there."""

from __future__ import annotations

import gc
import time
import traceback

import torch

from lorax_spec.bench.gpu.figures import Finding
from lorax_spec.bench.gpu.parts import Part
from lorax_spec.bench.gpu.share import OutOfTime, Share, cut_after
from lorax_spec.bench.gpu.stage import Stage

_LINE = 160


def run(part: Part, stage: Stage, seconds: float, limit: float) -> Finding:
    """``seconds`` is its share, by which it measures more or less; after ``limit`` it is cut."""
    # A dry run measures as little as a part can.
    stage.share = Share.of(0 if stage.dry else seconds)
    if stage.device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()  # what is free decides how large an engine's cache becomes
    finding = Finding(part.name, seconds)
    began = time.perf_counter()
    try:
        if limit <= 0:
            raise OutOfTime("no time was left")
        with cut_after(limit):
            for figure in part.measure(stage, finding.more):
                finding.figures.append(figure)
    except Exception as error:
        finding.error = _line(error)
        finding.traceback = traceback.format_exc()
    finding.seconds = time.perf_counter() - began
    return finding


def is_broken(device: torch.device) -> bool:
    """A fault inside a kernel leaves a process that can use its GPU no more."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def _line(error: Exception) -> str:
    lines = f"{type(error).__name__}: {error}".strip().splitlines()
    return lines[0] if len(lines[0]) <= _LINE else f"{lines[0][: _LINE - 1]}…"
