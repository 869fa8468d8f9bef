"""The parts, in the order of a short GPU run: what others need comes first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lorax_spec.bench.gpu.figures import Figure

if TYPE_CHECKING:
    from lorax_spec.bench.gpu.stage import Stage

#: Figures as they are found; the dictionary is for what only the JSON and plots want.
Measure = Callable[["Stage", dict[str, Any]], Iterator[Figure]]


@dataclass(frozen=True)
class Part:
    """``weight``: its share of the time, by those of the others."""

    name: str
    weight: float
    measure: Measure


def _of(module: str) -> Measure:
    """Imported when it runs: what does not import there fails that part alone."""

    def measure(stage: Stage, _: dict[str, Any]) -> Iterator[Figure]:
        yield from import_module(f"lorax_spec.bench.gpu.{module}").figures(stage)

    return measure


def _ceilings(stage: Stage, more: dict[str, Any]) -> Iterator[Figure]:
    from lorax_spec.bench.gpu import ceilings

    more["ceilings"] = stage.ceilings
    yield from ceilings.figures(stage.ceilings)


def _speculation(stage: Stage, more: dict[str, Any]) -> Iterator[Figure]:
    from lorax_spec.bench.gpu import speculating

    yield from speculating.figures(stage, more.setdefault("cells", []))


PARTS = (
    Part("ceilings", 12, _ceilings),
    Part("GPU tests", 120, _of("suites")),
    Part("kernels", 50, _of("roofline")),
    Part("widening", 30, _of("widened")),
    Part("decoding and verifying", 60, _of("decode")),
    Part("host gap", 10, _of("gap")),
    Part("adapters in a batch", 60, _of("adapted")),
    Part("hot loads", 25, _of("hot_load")),
    Part("speculation", 90, _speculation),
    Part("beside transformers", 45, _of("beside_transformers")),
    Part("a thousand adapters", 20, _of("many")),
)
