"""What a step gives each sequence of late."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.engine.drafting.drafting import Drafting, Step
from lorax_spec.engine.drafting.speeds import Speeds
from lorax_spec.speculation.cost import StepCost
from tests.engine.sequences import sequence
from tests.engine.test_never_slower import Guesser, World, accept


def speeds_of(gains: list[int]) -> tuple[float, ...]:
    """After each of some steps that gave so many tokens."""
    speeds, one = Speeds(), sequence(1, 1000)
    found = [speeds.of(one, 0)]
    for turn, gain in enumerate(gains, 1):
        one.tokens += [1] * gain
        found.append(speeds.of(one, turn))
    return tuple(found)


@given(st.lists(st.integers(1, 12), max_size=30))
def test_between_one_and_the_best_step(gains: list[int]) -> None:
    found = speeds_of(gains)
    assert found[0] == 1.0
    assert all(1.0 <= speed <= max([1, *gains]) for speed in found)


def test_it_follows_what_comes() -> None:
    found = speeds_of([8] * 12 + [1] * 12)
    assert found[12] == pytest.approx(8, rel=0.05)
    assert found[24] == pytest.approx(1, rel=0.3)
    assert sorted(found[:13]) == list(found[:13])


def test_steps_that_nobody_looked_at_count() -> None:
    """A look after four steps sees their mean, as heavy as four."""
    speeds, one = Speeds(), sequence(1, 1000)
    speeds.of(one, 0)
    one.tokens += [1] * 12
    assert speeds.of(one, 4) == pytest.approx(1 + 2 * (1 - 0.75**4))
    assert speeds.of(one, 4) == pytest.approx(1 + 2 * (1 - 0.75**4))


@pytest.mark.parametrize(
    ("tokens", "stretch", "saved"),
    [(1, 1.0, 1.0), (4, 1.0, 0.25), (4, 2.0, 0.5), (4, 8.0, 1.0), (1, 2.0, 1.0)],
)
def test_a_token_saves_what_a_token_takes(tokens: int, stretch: float, saved: float) -> None:
    """Steps of so many tokens that take so many times as long; never more than without drafts."""
    speeds, one = Speeds(), sequence(1, 1000)
    for turn in range(100):
        speeds.saving(one, turn)
        speeds.note_step(stretch)
        one.tokens += [1] * tokens
    assert speeds.saving(one, 100) == pytest.approx(saved, rel=0.02)


def test_who_ended_is_forgotten() -> None:
    speeds, one = Speeds(), sequence(1, 1000)
    speeds.of(one, 0)
    speeds.forget(one)
    assert not speeds._speeds


@pytest.mark.parametrize(
    ("sure", "right", "seconds"),
    [(0.95, 0.5, 0.35), (0.55, 0.8, 0.7)],
    ids=["sure copies", "copies that nobody is sure of"],
)
def test_a_dear_drafter_is_asked_where_nothing_else_guesses(
    sure: float, right: float, seconds: float
) -> None:
    """Texts that copy, which a cheap drafter guesses, take turns with others; what a dear one
    brings is worth its time in the others only."""
    world = World(slope=0.0, free=64)
    cheap, dear = (
        Guesser("cheap", world, 0.0, 0.0, 0.0),
        Guesser("dear", world, right, right, seconds),
    )
    drafting = Drafting([cheap, dear], StepCost({1: 1.0, 64: 1.0}), lambda: world.now)
    asked, steps = {True: 0, False: 0}, {True: 0, False: 0}
    for index in range(60):
        copies = index % 4 != 3
        one = sequence(4, 10**6)
        one.drafters = drafting.names
        cheap.true, cheap.said = (0.95, sure) if copies else (0.0, 0.05)
        while len(one.tokens) < 60:
            nodes, before = len(one.draft), dear.turns
            came, spent = accept(drafting, one), world.step(1)
            drafting.note_step(Step(1 + nodes, nodes, 1, 1, came, [10]), spent)
            drafting.draft([(one, torch.zeros(1))], 0)
            if index >= 20:
                asked[copies] += dear.turns - before
                steps[copies] += 1
        drafting.forget(one)
    # One step in thirteen goes without drafts, to compare with.
    assert asked[False] > 0.88 * steps[False]
    assert asked[True] < 0.2 * steps[True]
