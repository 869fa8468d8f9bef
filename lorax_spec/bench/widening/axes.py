"""Where the coordinates of a small model's spaces lie in a wide model's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from lorax_spec.bench.widening.shape import Shape, Variant, kv_copies

#: A wide coordinate that stands for no small one is always zero, or holds noise.
QUIET, NOISY = -1, -2


@dataclass(frozen=True)
class Axis:
    """One space, such as the residual stream or the queries of all heads.

    ``source`` [wide size], int64: the small coordinate that a wide one repeats, or QUIET or NOISY.
    What is written is so many times the small model's: ``factor``.
    """

    source: torch.Tensor
    factor: float = 1.0

    @property
    def size(self) -> int:
        return len(self.source)

    @cached_property
    def small_size(self) -> int:
        return int(self.source.max()) + 1

    @cached_property
    def places(self) -> torch.Tensor:
        """[copies, small size]: where each small coordinate is found."""
        kept = (self.source >= 0).nonzero()[:, 0]
        order = self.source[kept].argsort(stable=True)
        return kept[order].view(self.small_size, -1).T

    def mean_square(self) -> float:
        """What the mean of squares over the wide space is, times that over the small one."""
        return self.places.numel() / self.size


@dataclass(frozen=True)
class Axes:
    """``stream``: the residual stream, and so embeddings.  ``hidden``: what the final norm gives,
    which the lm head and other heads read.  ``context``: what attention gives.  ``inner``: inside
    the MLP."""

    stream: Axis
    hidden: Axis
    query: Axis
    key: Axis
    value: Axis
    context: Axis
    inner: Axis


def axes(small: Shape, wide: Shape, variant: Variant) -> Axes:
    """The spaces of a widening for which ``require_exact`` raises nothing.

    Attention divides scores by the root of the head size: wider queries are scaled up by as much.
    Their padding is zero, so that of keys may be noise; values' padding is noise as well, for
    nothing reads it.
    """
    padded = _beside(small.hidden_size, wide.hidden_size, QUIET)
    tiled = torch.arange(wide.hidden_size) % small.hidden_size
    copies = kv_copies(small, wide)
    kv_source = torch.arange(wide.kv_heads) // copies
    kv_source[small.kv_heads * copies :] = NOISY
    query_source = _query_heads(small, wide)
    rotary, plain = _rotary(small, wide), _beside(small.head_dim, wide.head_dim, NOISY)
    quiet_rotary = torch.where(rotary == NOISY, QUIET, rotary)
    return Axes(
        stream=Axis(tiled if variant is Variant.TILE else padded),
        hidden=Axis(padded),
        query=Axis(_heads(query_source, quiet_rotary), math.sqrt(wide.head_dim / small.head_dim)),
        key=Axis(_heads(kv_source, rotary)),
        value=Axis(_heads(kv_source, plain)),
        context=Axis(_heads(query_source, plain)),
        inner=inner(small.intermediate_size, wide.intermediate_size),
    )


def inner(small: int, wide: int) -> Axis:
    """A layer between two matrices, whose further units compute noise that nothing reads."""
    return Axis(_beside(small, wide, NOISY))


def _beside(small: int, wide: int, pad: int) -> torch.Tensor:
    source = torch.arange(wide)
    source[small:] = pad
    return source


def _query_heads(small: Shape, wide: Shape) -> torch.Tensor:
    """[wide heads]: the small head of each.  A small key head's queries fill the first slots of
    the wide key heads that copy it."""
    copies = kv_copies(small, wide)
    wide_kv = torch.arange(wide.heads) // wide.group
    slot = torch.arange(wide.heads) % wide.group + wide_kv % copies * wide.group
    source = wide_kv // copies * small.group + slot
    source[(slot >= small.group) | (wide_kv >= small.kv_heads * copies)] = NOISY
    return source


def _rotary(small: Shape, wide: Shape) -> torch.Tensor:
    """[wide head size]: rotated pairs (i, i + half) go where the frequency is the same."""
    ratio = wide.head_dim // small.head_dim
    first = torch.arange(small.head_dim // 2)
    source = torch.full((wide.head_dim,), NOISY)
    source[ratio * first] = first
    source[wide.head_dim // 2 + ratio * first] = small.head_dim // 2 + first
    return source


def _heads(heads: torch.Tensor, dims: torch.Tensor) -> torch.Tensor:
    """The coordinates of whole heads laid side by side."""
    small_dim = int(dims.max()) + 1
    source = heads[:, None] * small_dim + dims
    source = torch.where(dims[None] < 0, dims[None], source)
    return torch.where(heads[:, None] < 0, heads[:, None], source).flatten()
