"""Estimates that hold on a noisy machine: paired ratios and their bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000
_COVERAGE = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure, the 95 % bootstrap interval around it, and how many samples it stands on."""

    value: float
    low: float
    high: float
    samples: int

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """Median of the pairs' ratios: what a typical pair shows, whatever a noisy few do."""
    ratios = np.asarray(numerators, dtype=np.float64) / np.asarray(denominators, dtype=np.float64)
    return _bootstrap(len(ratios), lambda picked: np.median(ratios[picked], axis=-1))


def ratio_of_sums(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """Ratio of the totals: long samples count for more."""
    above = np.asarray(numerators, dtype=np.float64)
    below = np.asarray(denominators, dtype=np.float64)
    return _bootstrap(
        len(above), lambda picked: above[picked].sum(axis=-1) / below[picked].sum(axis=-1)
    )


def _bootstrap(count: int, statistic: Callable[[NDArray[np.int64]], Floats]) -> Estimate:
    """``statistic`` maps sample indices [..., count] to figures [...]."""
    if count == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    resampled = np.random.default_rng(0).integers(count, size=(_RESAMPLES, count))
    tail = (1 - _COVERAGE) / 2
    low, high = np.quantile(statistic(resampled), [tail, 1 - tail])
    return Estimate(float(statistic(np.arange(count))), float(low), float(high), count)
