"""Running several sides of a comparison on the same inputs, close to one another in time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

Input = TypeVar("Input", contravariant=True)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Run:
    """What one side made of one input.

    ``seconds`` and ``cpu_seconds`` are totals over ``rounds`` runs; ``outputs`` holds the token
    ids of each request, which every round must give alike.
    """

    outputs: tuple[tuple[int, ...], ...]
    seconds: float
    cpu_seconds: float
    rounds: int = 1

    @property
    def tokens(self) -> int:
        """Generated in all rounds together."""
        return self.rounds * sum(map(len, self.outputs))

    def __add__(self, other: Run) -> Run:
        return Run(
            other.outputs,
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            self.rounds + other.rounds,
        )


class Side(Protocol[Input]):
    """One of the things that are compared."""

    def __call__(self, given: Input, /) -> Run: ...


def timed(work: Callable[[], Result]) -> tuple[Result, float, float]:
    """(result, seconds by the wall's clock, seconds of this thread's processor time)"""
    started, cpu_started = time.perf_counter(), time.thread_time()
    result = work()
    return result, time.perf_counter() - started, time.thread_time() - cpu_started


def interleaved(
    sides: Mapping[str, Side[Input]], inputs: Iterable[Input], seed: int
) -> Iterator[dict[str, Run]]:
    """Each input through every side, in an order drawn for it and then in the reverse order, so
    that neither warmth nor drift favours a side; the first input is run once more beforehand and
    thrown away."""
    order = random.Random(seed)
    names = list(sides)
    for index, given in enumerate(inputs):
        if index == 0:
            for side in sides.values():
                side(given)
        order.shuffle(names)
        first = {name: sides[name](given) for name in names}
        yield {name: first[name] + sides[name](given) for name in reversed(names)}


def comparable(runs: Iterable[dict[str, Run]]) -> tuple[list[dict[str, Run]], int]:
    """Those inputs that all sides answered with the same token ids, and how many were not."""
    runs = list(runs)
    same = [run for run in runs if len({side.outputs for side in run.values()}) == 1]
    return same, len(runs) - len(same)
