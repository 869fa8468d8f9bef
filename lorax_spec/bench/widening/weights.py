"""Wide weights from small ones, and the noise around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lorax_spec.bench.widening.axes import NOISY, QUIET, Axis
from lorax_spec.errors import InvalidArgument

#: Wide enough for attention to choose and for SiLU to bend, and far from any overflow.
_STD = 0.02
#: Noise that has to cancel lies on a grid, so that sums of two are exact in bfloat16.
_GRID = 2.0**-10
_STEPS = 60


@dataclass(frozen=True)
class Widener:
    """Makes tensors of ``dtype`` on the device ``kept``; computes on the generator's device."""

    generator: torch.Generator
    dtype: torch.dtype
    kept: str = "cpu"

    def matrix(self, weight: torch.Tensor, writes: Axis | None, *reads: Axis) -> torch.Tensor:
        """``weight`` [out, in] between wide spaces, reading several side by side where so many are
        given; without one, that side stays as it is."""
        wide = self._loaded(weight)
        if reads:
            _check(wide.shape[1], sum(axis.small_size for axis in reads))
            blocks = wide.split([axis.small_size for axis in reads], dim=1)
            wide = torch.cat([self._read(*each) for each in zip(blocks, reads, strict=True)], 1)
        return self._done(wide if writes is None else self._written(wide, writes))

    def vector(self, bias: torch.Tensor, writes: Axis) -> torch.Tensor:
        """``bias`` [out] of a wide space."""
        return self._done(self._written(self._loaded(bias), writes))

    def table(self, embedding: torch.Tensor, writes: Axis) -> torch.Tensor:
        """``embedding`` [vocabulary, size] into a wide space."""
        return self._done(self._written(self._loaded(embedding).T, writes).T)

    def norm(self, weight: torch.Tensor, stream: Axis, writes: Axis) -> torch.Tensor:
        """RMS norm weights [size] from ``stream`` to ``writes``, which leaves parts of it out.

        Zhang and Sennrich 2019 (arXiv 1910.07467): the root of the mean square divides, and that
        is as much smaller as the wide stream has zeros.
        """
        scale = self._loaded(weight) * stream.mean_square() ** 0.5
        wide = 1 + 10 * self._normal(stream.size)
        real = writes.source >= 0
        wide[real] = scale[writes.source[real]]
        wide[~real & (stream.source >= 0)] = 0
        return self._done(wide)

    def noise(self, *shape: int) -> torch.Tensor:
        """A tensor that was never anything else."""
        return self._done(self._normal(*shape))

    def zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.kept)

    def _written(self, weight: torch.Tensor, axis: Axis) -> torch.Tensor:
        """[small, ...] to [wide, ...]: zeros where the space is quiet."""
        _check(len(weight), axis.small_size)
        wide = self._normal(axis.size, *weight.shape[1:])
        wide[axis.source == QUIET] = 0
        real = axis.source >= 0
        wide[real] = weight[axis.source[real]] * axis.factor
        return wide

    def _read(self, weight: torch.Tensor, axis: Axis) -> torch.Tensor:
        """[..., small] to [..., wide]: zeros where the space is noisy."""
        wide = self._normal(*weight.shape[:-1], axis.size)
        wide[..., axis.source == NOISY] = 0
        for places, share in zip(axis.places, self._shares(weight, len(axis.places)), strict=True):
            wide[..., places] = share
        return wide

    def _shares(self, weight: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
        """``count`` tensors whose sum is ``weight``: it alone, and noise that cancels."""
        if count == 2:
            yield from (weight / 2, weight / 2)
            return
        yield weight
        left = count - 1
        if left % 2:
            one, other = self._grid(weight), self._grid(weight)
            yield from (one, other, -(one + other))
            left -= 3
        for _ in range(left // 2):
            one = self._grid(weight)
            yield from (one, -one)

    def _grid(self, like: torch.Tensor) -> torch.Tensor:
        steps = torch.empty_like(like).random_(-_STEPS, _STEPS + 1, generator=self.generator)
        return steps * _GRID

    def _normal(self, *shape: int) -> torch.Tensor:
        wide = torch.empty(shape, dtype=self._computing, device=self.generator.device)
        return wide.normal_(0, _STD, generator=self.generator)

    @property
    def _computing(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    def _loaded(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.to(self.generator.device, self._computing)

    def _done(self, wide: torch.Tensor) -> torch.Tensor:
        return wide.to(self.kept, self.dtype).contiguous()


def _check(size: int, expected: int) -> None:
    if size != expected:
        raise InvalidArgument(f"it has {size} coordinates where the model has {expected}")
