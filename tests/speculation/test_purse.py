"""Trials take a small share of the time, whatever they cost and whoever asks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.speculation.acceptance import Promises
from lorax_spec.speculation.purse import Purse

seconds = st.floats(1e-4, 1.0)


@given(st.lists(st.tuples(seconds, st.lists(st.floats(0.0, 5.0), max_size=3)), min_size=1))
def test_trials_take_a_hundredth_of_all_time_and_sixteen_steps_once(
    steps: list[tuple[float, list[float]]],
) -> None:
    purse, lived, paid = Purse(), 0.0, 0.0
    for step, trials in steps:
        purse.earn(step)
        lived += step
        paid += sum(cost for cost in trials if purse.pay(cost))
        assert paid <= 16.0 * steps[0][0] + 0.01 * lived + 1e-9


def test_nothing_is_tried_before_the_first_step() -> None:
    assert not Purse().pay(0.0)


def test_what_is_saved_up_pays_for_a_dear_trial_at_last() -> None:
    purse = Purse()
    purse.earn(1.0)
    assert purse.pay(16.0)
    assert not purse.pay(1.5)
    for _ in range(151):
        purse.earn(1.0)
    assert purse.pay(1.5)
    for _ in range(1000):
        purse.earn(1.0)
    assert not purse.pay(2.5), "no more than two steps are saved up"


@given(st.floats(0.05, 1.0), st.floats(0.1, 20.0))
def test_promises_are_believed_as_far_as_they_are_kept(share: float, promised: float) -> None:
    promises = Promises()
    assert promises.kept == 1.0
    for _ in range(2000):
        promises.note(promised, share * promised)
    assert promises.kept <= min(1.0, share + 0.3 / promised + 0.05)
    assert promises.kept >= share - 1e-6


def test_more_than_was_promised_is_not_promised_next() -> None:
    promises = Promises()
    for _ in range(100):
        promises.note(1.0, 3.0)
    assert promises.kept == 1.0


def test_a_sequence_that_breaks_its_promises_is_found_out_before_the_others() -> None:
    """Six nodes, of which one came, are enough; those of the others are hardly doubted."""
    others = Promises()
    for _ in range(50):
        others.note(2.0, 1.9)
    good, bad = (Promises(others, trusted=2.0, fading=0.05) for _ in range(2))
    assert good.kept == bad.kept == others.kept == pytest.approx(0.95, abs=0.01)
    for came in (1.0, 0.0, 0.0):
        bad.note(2.0, came)
        good.note(2.0, 2.0)
    assert bad.kept < 0.45
    assert good.kept > 0.95
    assert others.kept > 0.9


def test_distrust_that_nothing_could_refute_wears_off() -> None:
    """Where nothing is drafted nothing can turn out right; all who share the estimate forget."""
    others = Promises()
    one = Promises(others, trusted=2.0, fading=0.05)
    for _ in range(8):
        one.note(1.0, 0.0)
    distrusted, theirs = one.kept, others.kept
    for _ in range(200):
        one.rest()
    assert distrusted < 0.15
    assert theirs < 0.35
    assert one.kept > 0.75
    assert others.kept > 0.75
