"""Estimates find what is there, and say how sure they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.bench.statistics import median_ratio, ratio_of_sums

_positive = st.floats(0.01, 100)


@given(st.lists(st.tuples(_positive, _positive), min_size=1, max_size=30))
def test_estimates_lie_within_their_intervals_and_the_data(
    pairs: list[tuple[float, float]],
) -> None:
    above, below = [a for a, _ in pairs], [b for _, b in pairs]
    ratios = [a / b for a, b in pairs]
    for estimate in (median_ratio(above, below), ratio_of_sums(above, below)):
        assert estimate.samples == len(pairs)
        assert min(ratios) * 0.999 <= estimate.low <= estimate.high <= max(ratios) * 1.001
        assert min(ratios) * 0.999 <= estimate.value <= max(ratios) * 1.001


def test_one_wild_pair_moves_the_ratio_of_sums_but_not_the_median() -> None:
    slow, fast = [2.0] * 20 + [1000.0], [1.0] * 21
    assert median_ratio(slow, fast).value == 2.0
    assert ratio_of_sums(slow, fast).value > 40


def test_long_samples_count_for_more_in_the_ratio_of_sums() -> None:
    assert ratio_of_sums([10, 300], [10, 100]).value == pytest.approx(310 / 110)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        noise = draw.lognormal(0, 0.3, size=40)
        estimate = median_ratio((1.5 * noise).tolist(), [1.0] * 40)
        held += estimate.low <= 1.5 <= estimate.high
    assert 175 <= held <= 200


def test_nothing_measured_is_not_a_number() -> None:
    assert math.isnan(median_ratio([], []).value)
