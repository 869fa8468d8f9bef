"""What a kernel is measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lorax_spec.bench.widening.shape import Shape


@dataclass(frozen=True)
class Entry:
    """``bytes``: what it must read and write at least, ``flops`` what it must compute.

    ``rival``: torch's own way to the same, where it has one.  ``keeps``: what it knows by address
    only.
    """

    label: str
    run: Callable[[], object]
    bytes: float
    flops: float = 0.0
    rival: Callable[[], object] | None = None
    keeps: object = None


@dataclass(frozen=True)
class Place:
    """Of what sizes.  ``long``: rows where a kernel would else be too short to be timed."""

    shape: Shape
    dtype: torch.dtype
    device: torch.device
    batch: int
    context: int
    rank: int
    long: int
    vocabulary: int

    def random(self, *sizes: int, scale: float = 1.0) -> torch.Tensor:
        """Never zeros: they take less power, and hide what was not written."""
        return (scale * torch.randn(*sizes, device=self.device)).to(self.dtype)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize
