"""``auto`` beside transformers' own prompt lookup: whole requests, one at a time, greedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from lorax_spec.bench.cells import OFF, worth_timing
from lorax_spec.bench.judging import Clock, Ratio
from lorax_spec.bench.pairs import Run, Side, interleaved
from lorax_spec.bench.report import Check, Report, Value
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.statistics import Estimate, ratio_of_sums
from lorax_spec.bench.subject import EMBEDDED, Opened, Subject
from lorax_spec.bench.tasks import KINDS, embedded_tasks
from lorax_spec.bench.transformers_side import TransformersSide, load_reference
from lorax_spec.bench.workload import Prompt

Runs = Sequence[dict[str, Run]]

#: Of a workload: prompts that are looked at, and those timed.
_LOOKED_AT, _TIMED = 24, 4
_TOKENS = 96
_LENGTHS, _PAYS = (5, 10, 24), 1.5
_ON, _AGAIN = "auto", "auto again"
#: Where the answer is mostly in the prompt, which lookup alone finds as well.
_COPIES = ("rename", "edit")


@dataclass(frozen=True)
class Request:
    """What every side made of one prompt, whole and behind its first token."""

    kind: str
    whole: dict[str, Run]
    decoding: dict[str, Run]


def measure(settings: Settings, subject: Subject = EMBEDDED) -> Report:
    with subject.open() as opened:
        asked = _asked(opened, settings)
        answered = settings.track(_requests(opened, asked, settings), len(asked), "beside them")
        # An answer of one token has nothing behind it.
        requests = [one for one in answered if all(run.tokens for run in one.decoding.values())]
        title = f"auto by transformers' prompt lookup, {opened.core.info.dtype}, one thread"
    found = {kind: [one for one in requests if one.kind == kind] for kind in KINDS}
    found |= {"copies": [one for one in requests if one.kind in _COPIES], "mix": requests}
    rows = [_row(kind, some) for kind, some in found.items() if some]
    checks = [
        Check(
            f"auto by transformers' prompt lookup, {kind}, decoding",
            _decoding(found[kind]),
            _PAYS,
            "x",
        )
        for kind in ("mix", "copies")
    ]
    runs = [one.whole for one in requests]
    differing = sum(run[_ON].outputs != run[_name(_LENGTHS[0])].outputs for run in runs)
    notes = [
        "Each line against the length at which transformers is fastest there; ratios of mean "
        "seconds per token; every request was answered once before.",
        f"Answers of {differing} requests differ from transformers' (near-ties in rounding).",
    ]
    return Report(title, rows, checks, notes)


def best_length(runs: Runs) -> int:
    """Of their draft lengths the one that takes these requests the least time."""
    return min(_LENGTHS, key=lambda length: sum(_seconds(runs, _name(length), Clock.WALL)))


def against(runs: Runs) -> Ratio:
    """Our speed by theirs at their best, and by our own, the null."""
    theirs = _name(best_length(runs))

    def ratio(other: str, clock: Clock) -> Estimate:
        return ratio_of_sums(_seconds(runs, other, clock), _seconds(runs, _ON, clock))

    return Ratio(
        ratio(theirs, Clock.WALL),
        ratio(theirs, Clock.CPU),
        ratio(_AGAIN, Clock.WALL),
        ratio(_AGAIN, Clock.CPU),
    )


def _asked(opened: Opened, settings: Settings) -> list[Prompt]:
    """The workloads in turn, as a server meets them; loops are left out."""
    kinds = _COPIES if settings.quick else KINDS
    tasks = embedded_tasks(kinds, _LOOKED_AT, opened.tokenizer, _TOKENS, settings.seed)
    off, count = opened.side(OFF), settings.count(_TIMED, 2)
    chosen = [worth_timing(off, prompts)[:count] for prompts in tasks.values()]
    return [prompts[i] for i in range(count) for prompts in chosen if i < len(prompts)]


def _requests(opened: Opened, asked: Sequence[Prompt], settings: Settings) -> Iterator[Request]:
    """All sides answer everything once before: the first product of a shape takes oneDNN far
    longer than those after it, and the sides do not meet new shapes equally often."""
    info, on = opened.core.info, opened.side(_ON)
    model = load_reference(info.model_path, getattr(torch, info.dtype.removeprefix("torch.")))
    sides: dict[str, Side[list[Prompt]]] = {_ON: on, _AGAIN: on}
    sides |= {_name(length): TransformersSide(model, length) for length in _LENGTHS}
    for prompt in asked:
        for name in sides.keys() - {_AGAIN}:
            sides[name]([prompt])
    firsts = [[replace(prompt, new_tokens=1)] for prompt in asked]
    answers = zip(
        asked,
        interleaved(sides, [[prompt] for prompt in asked], settings.seed),
        interleaved(sides, firsts, settings.seed),
        strict=True,
    )
    for prompt, whole, first in answers:
        yield Request(
            prompt.kind, whole, {name: behind(whole[name], first[name]) for name in sides}
        )


def behind(whole: Run, first: Run) -> Run:
    """What came after the first token."""
    return Run(
        tuple(output[1:] for output in whole.outputs),
        whole.seconds - first.seconds,
        whole.cpu_seconds - first.cpu_seconds,
        whole.rounds,
    )


def _row(kind: str, requests: Sequence[Request]) -> dict[str, Value]:
    whole = against([one.whole for one in requests])
    decoding = against([one.decoding for one in requests])
    return {
        "workload": kind,
        "whole": whole.judged,
        "decoding": decoding.judged,
        "their length": best_length([one.decoding for one in requests]),
        "clock": decoding.clock.value,
        "null": decoding.noise,
        "n": len(requests),
    }


def _decoding(requests: Sequence[Request]) -> float:
    return against([one.decoding for one in requests]).judged.value


def _seconds(runs: Runs, side: str, clock: Clock) -> list[float]:
    """Per token of each request."""
    field = "seconds" if clock is Clock.WALL else "cpu_seconds"
    return [getattr(run[side], field) / run[side].tokens for run in runs]


def _name(length: int) -> str:
    return f"lookup {length}"
