"""Kernels by their roofline: the least time that bytes or products allow, by what each takes."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from importlib import import_module

import torch

from lorax_spec.bench.gpu.figures import Figure
from lorax_spec.bench.gpu.kernels.entry import Entry, Place
from lorax_spec.bench.gpu.stage import Stage
from lorax_spec.bench.gpu.timing import typical_seconds
from lorax_spec.bench.widening.shape import Shape

#: Each a module of ``kernels`` with ``entries``.
GROUPS = ("attention", "lora", "medusa", "linear", "pointwise", "sampling")
#: So little that Triton's interpreter is through with it in seconds.
_SMALL = Shape(64, 1, 96, 4, 2, 16)
_VOCABULARY, _LONG = 128256, 4096


def figures(stage: Stage) -> Iterator[Figure]:
    """A kernel that fails is a figure that says so: the others are measured all the same."""
    for index, group in enumerate(GROUPS):
        share = stage.share.part(1 / (len(GROUPS) - index))
        try:
            entries = import_module(f"lorax_spec.bench.gpu.kernels.{group}").entries
            made = entries(place_of(stage))
            for entry in made if stage.dry else share.fill(made, 1):
                yield from _measured(entry, stage)
        except (ImportError, RuntimeError, ValueError, TypeError, AssertionError) as error:
            note = "".join(traceback.format_exception(error))
            first = f"{type(error).__name__}: {error}".splitlines()[0]
            what = f"{group}: does not run ({first})"
            yield Figure(what, float("nan"), "", 0, at_most=True, note=note)


def _measured(entry: Entry, stage: Stage) -> Iterator[Figure]:
    ceilings, repeats = stage.ceilings, stage.sizes.repeats
    least = max(entry.bytes / ceilings.bandwidth, entry.flops / ceilings.flops)
    seconds = typical_seconds(entry.run, stage.device, repeats)
    note = f"{1e6 * seconds:.1f} us, {entry.bytes / 1e6:.2f} MB"
    if entry.rival is not None:
        other = typical_seconds(entry.rival, stage.device, repeats)
        note += f"; torch's own way {1e6 * other:.1f} us"
    yield Figure(f"{entry.label}: least time by its own", least / seconds, note=note)


def place_of(stage: Stage) -> Place:
    """The wide model's sizes on a GPU."""
    if stage.device.type != "cuda":
        return small()
    sizes = stage.sizes
    return Place(
        stage.target.shape,
        stage.dtype,
        stage.device,
        sizes.batch,
        sizes.context,
        sizes.rank,
        _LONG,
        _VOCABULARY,
    )


def small(device: str = "cpu") -> Place:
    """For the interpreter, and for tools that slow kernels down."""
    return Place(_SMALL, torch.float32, torch.device(device), 2, 40, 16, 4, 128)
