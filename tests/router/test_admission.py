"""The house has a size, and closes."""

from __future__ import annotations

import pytest

from lorax_spec.errors import InvalidArgument, Overloaded, Unavailable
from lorax_spec.router.admission import Admission


def test_over_capacity_is_told_when_to_come_back() -> None:
    now = 0.0
    admission = Admission(2, clock=lambda: now)
    for _ in range(200):
        with admission.lease():
            now += 10.0
    with admission.lease(), admission.lease():
        with pytest.raises(Overloaded) as caught, admission.lease():
            pass
        assert caught.value.retry_after == pytest.approx(5.0, rel=0.01)
    assert admission.active == 0


def test_a_lease_ends_with_its_request_however_that_ends() -> None:
    admission = Admission(1)
    with pytest.raises(KeyError), admission.lease():
        raise KeyError
    with admission.lease():
        assert admission.active == 1


def test_a_request_of_several_sequences_needs_room_for_all() -> None:
    admission = Admission(4)
    with admission.lease(3):
        with pytest.raises(Overloaded), admission.lease(2):
            pass
        with admission.lease():
            assert admission.active == 4
    with admission.lease(4):
        assert admission.active == 4
    assert admission.active == 0
    with pytest.raises(InvalidArgument) as caught, admission.lease(5):
        pass
    assert caught.value.field == "parameters.best_of"


def test_a_closing_house_takes_nobody() -> None:
    admission = Admission(1)
    with admission.lease():
        admission.draining = True
    with pytest.raises(Unavailable), admission.lease():
        pass
