"""Every side gets the same inputs, in turn, forwards and backwards."""

from __future__ import annotations

import time

from lorax_spec.bench.comparison import speedup, throughput
from lorax_spec.bench.pairs import Run, comparable, interleaved, timed


class Scripted:
    """A side that takes ``seconds`` a token and notes when it was called."""

    def __init__(self, name: str, seconds: float, calls: list[tuple[str, int]]) -> None:
        self._name = name
        self._seconds = seconds
        self._calls = calls

    def __call__(self, given: int, /) -> Run:
        self._calls.append((self._name, given))
        return Run((tuple(range(given)),), self._seconds * given, self._seconds * given)


def test_orders_are_mirrored_and_drawn_by_the_seed() -> None:
    calls: list[tuple[str, int]] = []
    sides = {name: Scripted(name, 1.0, calls) for name in "abc"}
    list(interleaved(sides, [5, 6, 7], seed=3))
    warm_up, measured = calls[:3], calls[3:]
    assert [given for _, given in warm_up] == [5, 5, 5]
    orders = []
    for index, given in enumerate([5, 6, 7]):
        turn = measured[6 * index : 6 * index + 6]
        assert {call[1] for call in turn} == {given}
        names = [name for name, _ in turn]
        assert names[:3] == names[:2:-1]
        assert sorted(names[:3]) == ["a", "b", "c"]
        orders.append(names[:3])
    repeated: list[tuple[str, int]] = []
    list(interleaved({n: Scripted(n, 1.0, repeated) for n in "abc"}, [5, 6, 7], seed=3))
    assert repeated == calls


def test_the_faster_side_shows_as_faster() -> None:
    calls: list[tuple[str, int]] = []
    sides = {"ours": Scripted("ours", 0.5, calls), "theirs": Scripted("theirs", 1.5, calls)}
    runs = list(interleaved(sides, [4, 8], seed=0))
    assert speedup(runs, "ours", "theirs").value == 3.0
    assert throughput(runs, "ours") == 2.0
    assert runs[0]["ours"].rounds == 2
    assert runs[0]["ours"].tokens == 8


def test_inputs_whose_answers_differ_are_left_out() -> None:
    same = {"a": Run(((1, 2),), 1, 1), "b": Run(((1, 2),), 2, 2)}
    other = {"a": Run(((1, 2),), 1, 1), "b": Run(((1, 3),), 2, 2)}
    assert comparable([same, other]) == ([same], 1)


def test_the_clocks_tell_waiting_from_working() -> None:
    _, seconds, cpu_seconds = timed(lambda: time.sleep(0.05))
    assert seconds >= 0.05
    assert cpu_seconds < 0.03
