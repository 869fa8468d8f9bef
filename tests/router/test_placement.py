"""Requests go where their adapter is, until that worker has more than its share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.router.placement import Snapshot, choose


def worker(requests: int, *adapters: str) -> Snapshot:
    return Snapshot(requests, frozenset(adapters))


@pytest.mark.parametrize(
    ("adapters", "workers", "expected"),
    [
        ([], [worker(3), worker(1), worker(2)], 1),
        (["a"], [worker(0), worker(3, "a")], 1),
        (["a"], [worker(0), worker(5, "a")], 0),
        (["a"], [worker(10), worker(24, "a")], 1),
        (["a"], [worker(2, "a"), worker(1, "a"), worker(0)], 1),
        (["a", "m"], [worker(0, "a"), worker(1, "a", "m")], 1),
        (["b"], [worker(4, "a"), worker(3, "a")], 1),
    ],
)
def test_choices(adapters: list[str], workers: list[Snapshot], expected: int) -> None:
    assert choose(adapters, workers) == expected


WORKERS = st.lists(
    st.builds(Snapshot, st.integers(0, 50), st.frozensets(st.sampled_from("abc"))), min_size=1
)


@given(st.lists(st.sampled_from("abc"), max_size=2), WORKERS)
def test_nobody_gets_much_more_than_the_idlest(
    adapters: list[str], workers: list[Snapshot]
) -> None:
    least = min(one.requests for one in workers)
    assert workers[choose(adapters, workers)].requests <= 2 * least + 4
