"""How large everything is: on a GPU, and in a dry run."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from lorax_spec.bench.widening.shape import PRESETS, Preset, Shape


class Target(enum.StrEnum):
    """What is widened to; ``tiny`` is for dry runs."""

    B8 = "8b"
    B7 = "7b"
    B1 = "1b"
    TINY = "tiny"

    @property
    def shape(self) -> Shape:
        return TINY if self is Target.TINY else PRESETS[Preset(self.value)]


#: The embedded model's, with two layers more and a larger MLP.
TINY = Shape(256, 8, 1024, 8, 4, 32)


@dataclass(frozen=True)
class Sizes:
    """``context``: tokens before the steps that are timed; ``batch``: the larger of the two.

    ``rounds``: pairs of windows of ``steps`` steps each, at least.
    """

    batch: int
    context: int
    steps: int
    rounds: int
    adapters: int
    medusas: int
    rank: int
    new_tokens: int
    copy_bytes: tuple[int, ...]
    product: int
    repeats: int
    loads: int
    crowd: int


REAL = Sizes(
    batch=32,
    context=1024,
    steps=24,
    rounds=2,
    adapters=32,
    medusas=8,
    rank=16,
    new_tokens=48,
    copy_bytes=(1 << 30, 1 << 31, 1 << 32),
    product=8192,
    repeats=30,
    loads=6,
    crowd=1000,
)
DRY = Sizes(
    batch=4,
    context=24,
    steps=3,
    rounds=1,
    adapters=4,
    medusas=2,
    rank=16,
    new_tokens=6,
    copy_bytes=(1 << 22,),
    product=256,
    repeats=1,
    loads=2,
    crowd=8,
)
