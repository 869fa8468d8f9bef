"""Steps of a full batch as one side of a comparison: seconds of a window in which all decode."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import count, cycle

import torch

from lorax_spec.bench.engine_side import EngineSide
from lorax_spec.bench.gpu.share import Share
from lorax_spec.bench.gpu.timing import wait_for
from lorax_spec.bench.judging import margin
from lorax_spec.bench.pairs import Run, Side, interleaved, timed
from lorax_spec.bench.statistics import Estimate, median_ratio
from lorax_spec.bench.workload import Prompt
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import Emitted, Failed

#: Steps of the full batch before the window.
_WARMING = 3
#: Drafts are no deeper, and none brings more tokens.
_DEEPEST = 8

BASE, AGAIN = "base", "base again"


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Window:
    """A side whose requests are those of ``sides`` in turn; ``before`` prepares each run, and
    ``watch`` goes around the steps that count.

    What it gives as outputs is a token for each step: only the seconds mean something.
    """

    core: EngineCore
    device: torch.device
    steps: int
    sides: Sequence[EngineSide]
    before: Callable[[], None] = _nothing
    watch: Callable[[], AbstractContextManager[object]] = nullcontext

    def __call__(self, prompts: Sequence[Prompt], /) -> Run:
        self.before()
        room = (self.steps + 2 * _WARMING + len(prompts)) * _DEEPEST
        live = set()
        for prompt, side in zip(prompts, cycle(self.sides), strict=False):
            (request,) = side.requests([replace(prompt, new_tokens=room, ignore_end=True)])
            self.core.submit(request)
            live.add(request.request_id)
        try:
            waiting = set(live)
            while waiting:
                waiting -= self._step()
            for _ in range(_WARMING):
                self._step()
            wait_for(self.device)
            with self.watch():
                _, seconds, cpu_seconds = timed(self._window)
        finally:
            for request_id in live:
                self.core.cancel(request_id)
        return Run(((0,) * self.steps,), seconds, cpu_seconds)

    def _window(self) -> None:
        for _ in range(self.steps):
            self._step()
        wait_for(self.device)

    def _step(self) -> set[int]:
        """Who got tokens.  Raises the error of any request."""
        got = set()
        for event in self.core.step():
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Emitted):
                got.add(event.request_id)
        return got


@dataclass(frozen=True)
class Times:
    """Seconds of a step by side and pair of windows."""

    by_side: dict[str, list[float]]

    def ratio(self, side: str, to: str = BASE) -> Estimate:
        return median_ratio(self.by_side[side], self.by_side[to])

    def step(self, side: str = BASE) -> float:
        """The median."""
        return float(torch.tensor(self.by_side[side], dtype=torch.float64).median())

    @property
    def noise(self) -> float:
        """How far the base's ratio to itself goes from 1."""
        return margin(self.ratio(AGAIN))


def compare(
    sides: dict[str, Side[list[Prompt]]],
    prompts: list[Prompt],
    share: Share,
    rounds: int,
    seed: int,
) -> Times:
    """BASE, AGAIN and others in pairs of windows, ``rounds`` of them and more while there is time.

    The same prompts every time: their keys are in the prefix cache after the first.
    """
    inputs = share.fill((prompts for _ in count()), rounds)
    by_side: dict[str, list[float]] = {name: [] for name in sides}
    for runs in interleaved(sides, inputs, seed):
        for name, run in runs.items():
            by_side[name].append(run.seconds / run.tokens)
    return Times(by_side)


def random_prompts(number: int, length: int, vocabulary: int, seed: int) -> list[Prompt]:
    """All different, so that no two share keys."""
    draw = random.Random(seed)
    return [
        Prompt("random", tuple(draw.randrange(8, vocabulary) for _ in range(length)), 1)
        for _ in range(number)
    ]
