"""One cell of drafters x workloads x batch sizes: paired times and counts of the same answers.

Prompts are computed beforehand and stay in the prefix cache, the same for every side, so that
what is timed is decoding: a prompt's own pass takes no drafts and would hide what they cost.
A request that ends makes room for the next, as on a server.  Requests are of different lengths, and
the clock runs from when the batch is full until no further request is left to take: what comes
before and after are smaller batches, another workload, and longer where drafting goes well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from lorax_spec.bench.engine_side import EngineSide, Traffic, drive
from lorax_spec.bench.judging import Ratio
from lorax_spec.bench.pairs import Run, Side, interleaved, timed
from lorax_spec.bench.report import Value
from lorax_spec.bench.statistics import Estimate, median_ratio
from lorax_spec.bench.workload import Prompt, worth_counting
from lorax_spec.engine.core import EngineCore
from lorax_spec.speculation.guesses import total
from lorax_spec.types import DrafterCounts, SpeculationDetails

OFF, AGAIN = "off", "off again"
#: Groups of a place that are taken in any case: of two, one disturbed would be a half.
_FEWEST = 3
#: Requests of a group, in batches.
WAVES = 3
#: Requests have 0.5 to 1.5 times the workload's tokens, spread evenly (by the golden ratio).
_SHORTEST, _STEP = 0.5, 0.618034
_SCREENED_AT_ONCE = 16


@dataclass(frozen=True)
class Decoded(Run):
    """With what each request of the last round drafted, and the tokens that came in the time."""

    details: tuple[SpeculationDetails, ...] = ()
    in_time: int = 0

    @property
    def tokens(self) -> int:
        return self.in_time

    def __add__(self, other: Run) -> Decoded:
        assert isinstance(other, Decoded)
        both = super().__add__(other)
        return Decoded(
            both.outputs,
            both.seconds,
            both.cpu_seconds,
            both.rounds,
            other.details,
            self.in_time + other.in_time,
        )


@dataclass(frozen=True)
class DecodingSide:
    """An EngineSide that finds its prompts computed, and runs a part of them at a time."""

    side: EngineSide

    def __call__(self, prompts: Sequence[Prompt], /) -> Run:
        requests = list(self.side.requests(prompts))
        traffic, at_once = Traffic(self.side.core, requests), max(1, len(requests) // WAVES)
        traffic.fill(at_once)
        before = traffic.tokens
        _, seconds, cpu_seconds = timed(lambda: traffic.run_full(at_once))
        in_time = traffic.tokens - before
        answers = traffic.finish()
        outputs = tuple(tuple(answer.tokens) for answer in answers)
        details = tuple(answer.speculation for answer in answers)
        return Decoded(outputs, seconds, cpu_seconds, details=details, in_time=in_time)


@dataclass(frozen=True)
class Place:
    """Requests of one workload, ``batch`` at a time, WAVES times as many in a group; ``most``
    groups are enough."""

    workload: str
    batch: int
    prompts: Sequence[Prompt]
    most: int

    def group(self, index: int) -> list[Prompt]:
        """The prompts in turn, cut to different lengths; they come again where a batch is larger
        than the workload."""
        count = WAVES * self.batch
        first = index * count
        prompts = [self.prompts[(first + i) % len(self.prompts)] for i in range(count)]
        return [_of_length(prompt, i * _STEP % 1.0) for i, prompt in enumerate(prompts)]


def _of_length(prompt: Prompt, share: float) -> Prompt:
    return replace(prompt, new_tokens=max(2, round((_SHORTEST + share) * prompt.new_tokens)))


@dataclass(frozen=True)
class Cell:
    """What one drafter did at one place."""

    workload: str
    drafter: str
    batch: int
    temperature: float
    ratio: Ratio
    tokens_per_second: float
    tokens_per_forward: float
    counts: DrafterCounts
    differing: int

    def brief(self) -> dict[str, Value]:
        """A row that fits a terminal; ``null`` is how far from 1 off by itself goes."""
        counts, ratio = self.counts, self.ratio
        return {
            "workload": self.workload,
            "drafter": self.drafter,
            "batch": self.batch,
            "T": self.temperature,
            "by off": ratio.judged,
            "clock": ratio.clock.value,
            "wall": ratio.wall.value,
            "cpu": ratio.cpu.value,
            "null": ratio.noise,
            "per fw": self.tokens_per_forward,
            "accepted": counts.accepted_tokens / max(1, counts.drafted_tokens),
            "by depth": by_depth(counts, 2),
        }

    def row(self) -> dict[str, Value]:
        """Everything."""
        counts, ratio = self.counts, self.ratio
        return {
            "workload": self.workload,
            "drafter": self.drafter,
            "batch": self.batch,
            "T": self.temperature,
            "wall": ratio.wall,
            "cpu": ratio.cpu,
            "null wall": ratio.null_wall,
            "null cpu": ratio.null_cpu,
            "judged by": ratio.clock.value,
            "tokens/s": self.tokens_per_second,
            "tokens/forward": self.tokens_per_forward,
            "drafted": counts.drafted_tokens,
            "accepted": counts.accepted_tokens,
            "by depth": by_depth(counts),
        }


def by_depth(counts: DrafterCounts, deepest: int = 8) -> str:
    """Accepted by drafted nodes 1, 2, ... tokens ahead."""
    pairs = zip(counts.accepted_by_depth, counts.drafted_by_depth, strict=True)
    return " ".join(f"{right / most:.2f}" for right, most in list(pairs)[:deepest] if most) or "-"


def runs_by_place(
    core: EngineCore,
    sides: Mapping[str, EngineSide],
    places: Sequence[Place],
    seconds: float,
    seed: int,
) -> Iterator[tuple[Place, list[dict[str, Run]]]]:
    """Each place's groups through all sides, in pairs, until its ``most`` or ``seconds`` are used
    up; at least three groups each, or ``most``."""
    taken: list[Place] = []
    timing: dict[str, Side[list[Prompt]]] = {n: DecodingSide(side) for n, side in sides.items()}
    pairs = interleaved(timing, _inputs(core, places, seconds, taken), seed)
    runs: list[dict[str, Run]] = []
    place: Place | None = None
    for index, run in enumerate(pairs):
        if place is not None and taken[index] is not place:
            yield place, runs
            runs = []
        place = taken[index]
        runs.append(run)
    if place is not None:
        yield place, runs


def _inputs(
    core: EngineCore, places: Sequence[Place], seconds: float, taken: list[Place]
) -> Iterator[list[Prompt]]:
    for place in places:
        core.forget_prefixes()
        began = perf_counter()
        for index in range(place.most):
            if index >= _FEWEST and perf_counter() - began > seconds:
                break
            group = place.group(index)
            once = [replace(prompt, new_tokens=1) for prompt in group]
            drive(core, list(EngineSide(core).requests(once)))
            taken.append(place)
            yield group


def cell(place: Place, drafter: str, runs: Sequence[dict[str, Run]], temperature: float) -> Cell:
    """Of the side ``drafter`` among paired runs with OFF and AGAIN."""
    mine = [run[drafter] for run in runs]
    details = [one for run in mine if isinstance(run, Decoded) for one in run.details]
    tokens = sum(len(output) - 1 for run in mine for output in run.outputs)
    passes = sum(one.forward_passes - 1 for one in details)
    return Cell(
        place.workload,
        drafter,
        place.batch,
        temperature,
        ratio(runs, drafter),
        sum(run.tokens for run in mine) / sum(run.seconds for run in mine),
        tokens / max(1, passes),
        total([counts for one in details for counts in one.drafters.values()]),
        sum(run[drafter].outputs != run[OFF].outputs for run in runs),
    )


def ratio(runs: Sequence[dict[str, Run]], drafter: str) -> Ratio:
    """Speeds by OFF's."""

    def by(side: str, clock: str) -> Estimate:
        return median_ratio(
            [getattr(run[OFF], clock) / run[OFF].tokens for run in runs],
            [getattr(run[side], clock) / run[side].tokens for run in runs],
        )

    return Ratio(
        by(drafter, "seconds"),
        by(drafter, "cpu_seconds"),
        by(AGAIN, "seconds"),
        by(AGAIN, "cpu_seconds"),
    )


def worth_timing(side: EngineSide, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Those whose answers are worth counting; all of them where none is."""
    good = []
    for first in range(0, len(prompts), _SCREENED_AT_ONCE):
        asked = prompts[first : first + _SCREENED_AT_ONCE]
        answers = drive(side.core, list(side.requests(asked)))
        good += [p for p, a in zip(asked, answers, strict=True) if worth_counting(a.tokens)]
    return good or list(prompts)
