"""Levels of guesses that are not worth their time."""

from __future__ import annotations

from lorax_spec.engine.drafting.level_cost import LevelCost


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def learned(clock: Clock, rows: int, *times: float) -> LevelCost:
    cost = LevelCost(clock, lambda sequences: 2.0 * sequences)
    for seconds in times:
        with cost.level(rows):
            clock.now += seconds
    return cost


def test_a_level_pays_if_it_beats_the_step() -> None:
    """A step of 4 s gives 6 tokens, so that a level of 1 s must bring 1.5."""
    cost = learned(Clock(), 4, 1.0)
    assert cost.pays(gain=1.6, rows=4, expected=6.0, sequences=2)
    assert not cost.pays(gain=1.4, rows=4, expected=6.0, sequences=2)


def test_what_is_not_known_is_tried() -> None:
    cost = learned(Clock(), 4, 1.0)
    assert cost.pays(gain=0.01, rows=32, expected=6.0, sequences=2)


def test_slow_times_are_hardly_believed_and_quick_ones_at_once() -> None:
    cost = learned(Clock(), 4, 1.0, 5.0)
    assert cost.pays(gain=1.45, rows=4, expected=2.0, sequences=1)
    assert not cost.pays(gain=1.35, rows=4, expected=2.0, sequences=1)
    quick = learned(Clock(), 4, 5.0, 1.0)
    assert quick.pays(gain=1.05, rows=4, expected=2.0, sequences=1)
