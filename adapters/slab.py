"""Many tensors in one: a slab moves between memories in a single copy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

#: Every piece starts at a multiple of so many elements, which vector loads of kernels need.
ALIGNMENT = 64
#: Elements; torch splits no work smaller than this among threads.
_CHUNK = 32768


class Piece(NamedTuple):
    """Where a tensor lies in its slab; ``offset`` counts elements."""

    offset: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Slab:
    """``data`` is one-dimensional and contiguous; gaps between the pieces are zero."""

    data: torch.Tensor
    pieces: Mapping[str, Piece]

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def __getitem__(self, name: str) -> torch.Tensor:
        """The tensor ``name``: a view, no copy."""
        offset, shape = self.pieces[name]
        strides, step = [], 1
        for size in reversed(shape):
            strides.append(step)
            step *= size
        # A slice and a view take six times as long, in which the step loop stands still.
        return self.data.as_strided(shape, strides[::-1], offset)

    def to(
        self,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> Slab:
        """The same pieces elsewhere, in one copy; itself where it lies there already."""
        data = self.data.to(device, dtype, non_blocking)
        return self if data is self.data else Slab(data, self.pieces)


def layout(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Piece], int]:
    """Where each tensor goes, in the order given, and how many elements the slab has."""
    pieces: dict[str, Piece] = {}
    end = 0
    for name, shape in shapes.items():
        pieces[name] = Piece(end, shape)
        end += -(-math.prod(shape) // ALIGNMENT) * ALIGNMENT
    return pieces, end


def allocate(
    pieces: Mapping[str, Piece], numel: int, dtype: torch.dtype, pinned: bool = False
) -> Slab:
    """A slab of zeros in host memory; ``pinned`` makes its copies to a CUDA device asynchronous."""
    slab = Slab(torch.empty(numel, dtype=dtype, pin_memory=pinned), pieces)
    for chunk in chunks(slab.data):
        chunk.zero_()
    return slab


def chunks(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A contiguous tensor in flat pieces so small that torch works on each in the calling thread.

    Adapters are read beside the model, which uses torch's threads; two teams of them on the same
    cores wait for each other, and a load of 2 ms takes 70.
    """
    flat: tuple[torch.Tensor, ...] = tensor.view(-1).split(_CHUNK)
    return flat
