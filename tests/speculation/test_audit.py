"""The audit: drafting pauses where it was slower than none, whatever the estimates say."""

from __future__ import annotations

import pytest

from lorax_spec.speculation.audit import Audit


def drafted(audit: Audit, steps: int, times: list[float], rounds: list[float]) -> int:
    """Live ``steps`` steps, drafting wherever that is allowed; returns how often it was."""
    count = 0
    for _ in range(steps):
        if audit.allows():
            audit.note(True, times[count % len(times)], rounds[count % len(rounds)])
            count += 1
        else:
            audit.note(False, 1.0, 1.0)
    return count


def test_two_plain_steps_come_first() -> None:
    audit = Audit()
    assert not audit.allows()
    audit.note(False, 1.0, 1.0)
    assert not audit.allows()
    audit.note(False, 1.0, 1.0)
    assert audit.allows()


def test_what_pays_goes_on_but_for_a_step_now_and_then() -> None:
    count = drafted(Audit(), 1000, [1.5], [2.0])
    assert 950 < count < 990


def test_what_does_not_pay_pauses_longer_and_longer() -> None:
    audit = Audit()
    first = drafted(audit, 1000, [1.5], [1.2])
    assert 12 <= first < 100
    assert drafted(audit, 1000, [1.5], [1.2]) <= first / 2


def test_it_is_taken_back_when_it_pays_again() -> None:
    audit = Audit()
    drafted(audit, 300, [2.0], [1.0])
    assert drafted(audit, 1000, [1.2], [3.0]) > 500


@pytest.mark.parametrize(("rounds", "pays"), [([1.0, 4.0], True), ([1.0, 1.5], False)])
def test_pace_is_time_over_tokens(rounds: list[float], pays: bool) -> None:
    """2 for 1 and for 4 tokens is 0.8 a token, though the mean of both steps' is 1.25."""
    count = drafted(Audit(), 1000, [2.0], rounds)
    assert (count > 900) is pays


@pytest.mark.parametrize(("rounds", "pauses"), [([1.0] * 7 + [2.0], False), ([1.12], True)])
def test_a_few_unlucky_steps_are_no_loss(rounds: list[float], pauses: bool) -> None:
    """Sixteen steps at one and an eighth of the time, for as many tokens on the whole: of one
    sequence, now one and now two, that may be chance; of many, always as many, it is not."""
    audit = Audit()
    assert drafted(audit, 19, [1.14], rounds) == 16
    assert audit.allows() is not pauses
