"""What a guess is worth once the noise of its position is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lorax_spec.speculation.coupling import (
    UNCALIBRATED,
    HeadConstants,
    Part,
    head_constants,
    worths,
)

Floats = npt.NDArray[np.floating[Any]]

log_probabilities = arrays.arrays(
    np.float64, st.integers(1, 64), elements=st.floats(-60.0, 0.0, allow_subnormal=False)
)
parts = st.builds(Part, st.floats(0.0, 5.0), st.floats(0.0, 3.0), st.floats(-15.0, 3.0))
heads = st.builds(HeadConstants, parts, parts, parts, st.floats(0.0, 1.0))
temperatures = st.floats(0.01, 5.0)


def noise_for(log_q: Floats, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).gumbel(size=log_q.shape)


@given(log_probabilities, temperatures, heads, st.integers(0, 99), st.booleans())
def test_worths_are_probabilities(
    log_q: Floats, temperature: float, constants: HeadConstants, seed: int, greedy: bool
) -> None:
    noise = None if greedy else noise_for(log_q, seed)
    worth = worths(log_q, noise, temperature, constants)
    assert worth.shape == log_q.shape
    assert (worth > 0.0).all()
    assert (worth <= 1.0).all()
    assert worth.sum() <= 1.0 + 1e-9


@given(log_probabilities, temperatures, heads, st.integers(0, 99))
def test_a_better_score_is_never_worth_less(
    log_q: Floats, temperature: float, constants: HeadConstants, seed: int
) -> None:
    """Who is ahead by the head and by the noise is ahead."""
    noise = noise_for(log_q, seed)
    worth = worths(log_q, noise, temperature, constants)
    ahead = (log_q[:, None] >= log_q) & (noise[:, None] >= noise)
    assert (worth[:, None] >= worth - 1e-15)[ahead].all()
    greedy = worths(log_q, None, temperature, constants)
    assert (greedy[:, None] >= greedy - 1e-15)[log_q[:, None] >= log_q].all()


@given(log_probabilities, heads)
def test_a_temperature_near_zero_is_greedy(log_q: Floats, constants: HeadConstants) -> None:
    cold = worths(log_q, noise_for(log_q), 1e-9, constants)
    np.testing.assert_allclose(cold, worths(log_q, None, 1.0, constants), rtol=1e-5, atol=1e-9)


def test_many_positions_at_once_equal_each_alone() -> None:
    generator = np.random.default_rng(3)
    log_q, noise = generator.normal(-4, 2, (5, 3, 16)), generator.gumbel(size=(5, 3, 16))
    temperature = np.linspace(0.2, 2.0, 5)[:, None, None]
    together = worths(log_q, noise, temperature, UNCALIBRATED)
    for i in range(5):
        for j in range(3):
            alone = worths(log_q[i, j], noise[i, j], float(temperature[i, 0, 0]), UNCALIBRATED)
            np.testing.assert_allclose(together[i, j], alone, rtol=1e-12)


def synthetic(count: int, error: float, seed: int) -> tuple[Floats, Floats, npt.NDArray[np.int_]]:
    """A head's log q, the noise at 0.8, and the choice of a model whose ``log p / T`` differs from
    the head's by Gumbel errors of scale ``error``.

    The choice is then an argmax of scores with Gumbel errors: a softmax of scores / error.
    """
    generator = np.random.default_rng(seed)
    log_q = generator.normal(0, 2, (count, 20))
    noise = generator.gumbel(size=(count, 20))
    log_p = log_q + 0.8 * error * generator.gumbel(size=(count, 20))
    return log_q, noise, (log_p / 0.8 + noise).argmax(-1)


def test_worths_are_calibrated_on_a_head_with_known_errors() -> None:
    """Of guesses said to be worth p, a share of p comes true; the noise must be heard for it."""
    error = 0.7
    log_q, noise, chosen = synthetic(20_000, error, seed=1)
    heard = Part(1.0 / error, 1.0 / error, -30.0)
    constants = HeadConstants(greedy=heard, free=heard, sure=heard, share=0.3)
    worth = worths(log_q, noise, 0.8, constants)
    right = np.arange(20) == chosen[:, None]
    for low in np.arange(0.05, 0.95, 0.1):
        some = (worth > low) & (worth <= low + 0.1)
        assert abs(right[some].mean() - worth[some].mean()) < 0.02, low
    deaf = Part(1.0, 0.0, -30.0)
    plain = worths(log_q, noise, 0.8, HeadConstants(deaf, deaf, deaf, 0.3))
    first_heard = (worth.argmax(-1) == chosen).mean()
    first_plain = (plain.argmax(-1) == chosen).mean()
    assert first_heard > 1.2 * first_plain


def test_constants_are_read_by_name() -> None:
    content = {
        "accepted": {"greedy": [[0.5], [0.4]], "sampled": [[0.5], [0.4]]},
        "sharpness": [1.0, 1.1],
        "noise": [0.9, 0.8],
        "none": [-4.0, -3.0],
        "sure": {
            "share": [0.4, 0.5],
            "sharpness": [1.5, 1.6],
            "noise": [0.2, 0.1],
            "none": [-2.0, -1.0],
        },
        "greedy": {"sharpness": [1.3, 1.2], "none": [-6.0, -5.0]},
    }
    first, second = head_constants(content)
    assert first == HeadConstants(
        greedy=Part(1.3, 0.0, -6.0), free=Part(1.0, 0.9, -4.0), sure=Part(1.5, 0.2, -2.0), share=0.4
    )
    assert second.sure == Part(1.6, 0.1, -1.0)
    with pytest.raises(KeyError):
        head_constants({"sharpness": [1.0]})


def test_the_share_decides_whether_head_or_noise_leads() -> None:
    sure, free = Part(2.0, 0.0, -20.0), Part(1.0, 1.0, -20.0)
    log_q, noise = np.log(np.array([0.6, 0.3, 0.1])), np.array([-1.0, 2.5, 0.0])
    for share, first in ((0.9, 0), (0.1, 1)):
        constants = HeadConstants(greedy=sure, free=free, sure=sure, share=share)
        assert worths(log_q, noise, 0.8, constants).argmax() == first


@given(log_probabilities, temperatures, heads, st.integers(0, 99))
def test_worths_mix_the_two_parts_by_their_share(
    log_q: Floats, temperature: float, constants: HeadConstants, seed: int
) -> None:
    noise = noise_for(log_q, seed)
    sure, free = (
        worths(log_q, noise, temperature, replace(constants, sure=part, free=part))
        for part in (constants.sure, constants.free)
    )
    mixed = constants.share * sure + (1.0 - constants.share) * free
    found = worths(log_q, noise, temperature, constants)
    np.testing.assert_allclose(found, mixed, rtol=1e-9)


def test_constants_of_many_heads_at_once_equal_each_alone() -> None:
    generator = np.random.default_rng(4)
    log_q, noise = generator.normal(-4, 2, (2, 3, 16)), generator.gumbel(size=(2, 3, 16))
    other = HeadConstants(Part(1.4, 0.0, -4.0), Part(1.2, 0.7, -6.0), Part(1.1, 0.1, -2.0), 1.0)

    def both(part: str) -> Part:
        one, two = getattr(UNCALIBRATED, part), getattr(other, part)
        numbers: list[Any] = [
            np.array([getattr(one, name), getattr(two, name)])[:, None, None]
            for name in ("sharpness", "noise", "none")
        ]
        return Part(*numbers)

    share: Any = np.array([UNCALIBRATED.share, other.share])[:, None, None]
    constants = HeadConstants(both("greedy"), both("free"), both("sure"), share)
    for heard in (noise, None):
        together = worths(log_q, heard, 0.5, constants)
        for k, head in enumerate((UNCALIBRATED, other)):
            alone = worths(log_q[k], None if heard is None else heard[k], 0.5, head)
            np.testing.assert_allclose(together[k], alone, rtol=1e-12)
