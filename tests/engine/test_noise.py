"""Noise is made together, and is the same however it was made."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.engine.noise import Noise, noise_of
from lorax_spec.kernels.noise import gumbel

CPU = torch.device("cpu")
places = st.tuples(st.integers(0, 3), st.integers(0, 40))


@given(st.lists(st.lists(places, min_size=1, max_size=6), max_size=5), st.sampled_from([96, 5000]))
def test_it_is_that_of_the_position(calls: list[list[tuple[int, int]]], vocabulary: int) -> None:
    noises = [Noise(seed) for seed in range(4)]
    for call in calls:
        made = noise_of([(noises[i], position) for i, position in call], vocabulary, CPU)
        for row, (seed, position) in zip(made, call, strict=True):
            assert torch.equal(row, gumbel([seed], [position], vocabulary, CPU)[0])


@pytest.mark.parametrize(
    ("vocabulary", "rows", "further"), [(4096, 1, 7), (4096, 8, 0), (128_000, 1, 0)]
)
def test_positions_after_it_are_made_along_where_that_is_cheap(
    vocabulary: int, rows: int, further: int
) -> None:
    noises = [Noise(seed) for seed in range(rows)]
    noise_of([(noise, 5) for noise in noises], vocabulary, CPU)
    assert all(list(noise.made) == [*range(5, 6 + further)] for noise in noises)
    noises[0].forget_before(6)
    assert min(noises[0].made, default=6) == 6
