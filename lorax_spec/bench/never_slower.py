"""Speculation on against off, over workloads and batch sizes: it pays, or it steps aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean, median

import torch

from lorax_spec.bench.cells import AGAIN, OFF, Cell, Place, cell, runs_by_place, worth_timing
from lorax_spec.bench.comparison import Runs, speedup
from lorax_spec.bench.judging import FLOOR
from lorax_spec.bench.pairs import Side, interleaved
from lorax_spec.bench.plotting import save
from lorax_spec.bench.report import Check, Report
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.subject import EMBEDDED, Opened, Subject
from lorax_spec.bench.tasks import KINDS, RANDOM, embedded_tasks
from lorax_spec.bench.transformers_side import TransformersSide, load_reference
from lorax_spec.bench.workload import Prompt

_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_QUICK_KINDS, _QUICK_BATCHES = ("rename", RANDOM), (1, 8)
#: Prompts of each kind; requests at a time that are many.
_PROMPTS, _LARGE = 24, 32
#: (tokens, tokens of many at a time) of the embedded model, and of a larger one.
_TOKENS, _TOKENS_OF_LARGER = (56, 32), (40, 24)
#: Seconds for a cell before it takes no further group.
_SECONDS, _QUICK_SECONDS = 7.0, 1.0
#: The most groups of a cell.
_GROUPS = 12
_ON = "auto"

#: A memory-bound model: from this many tokens per forward on, so many times as fast.
_MANY, _PAYS = 2.0, 1.6
_THEIR_LENGTHS, _BY_THEIRS, _ASKED, _LONG = (5, 10, 16, 24), 1.5, 8, 160


@dataclass(frozen=True)
class Rivals:
    """The best of transformers' own prompt lookup, one request at a time, each the second
    time."""

    length: int
    runs: Runs


def measure(
    settings: Settings,
    subject: Subject = EMBEDDED,
    batches: Sequence[int] = (),
    output: Path | None = None,
) -> Report:
    """``batches``: others than the usual ones."""
    larger = subject.model_id is not None
    with subject.open() as opened:
        cells = _cells(opened, settings, batches, _TOKENS_OF_LARGER if larger else _TOKENS)
        rivals = _rivals(opened, settings) if larger else None
    slower = [one for one in cells if one.ratio.is_slower]
    checks = [
        Check("cells where drafting is slower than 0.98 beyond the noise", len(slower), 0, "", True)
    ]
    for workload in dict.fromkeys(one.workload for one in cells):
        mine = [one.ratio.judged.value for one in cells if one.workload == workload]
        what = f"on by off, {workload}, mean of the batch sizes"
        checks.append(Check(what, geometric_mean(mine), FLOOR, "x"))
    if rivals is not None:
        many = [one for one in cells if one.tokens_per_forward >= _MANY]
        worst = min((one.ratio.judged.value for one in many), default=float("nan"))
        checks.append(
            Check(f"on by off, worst of {len(many)} cells of 2 tokens a forward", worst, _PAYS, "x")
        )
        found = speedup(rivals.runs, _ON, f"lookup {rivals.length}")
        what = f"on by transformers' prompt lookup {rivals.length}, rename and edit"
        checks.append(Check(what, found.value, _BY_THEIRS, "x"))
    worst_cell = min(cells, key=lambda one: one.ratio.judged.value)
    noisiest = max(cells, key=lambda one: one.ratio.noise)
    notes = [
        f"Lowest: {_named(worst_cell)} at {worst_cell.ratio.judged}; its null strays "
        f"{worst_cell.ratio.noise:.3f} from 1. Noisiest: {_named(noisiest)}, "
        f"{noisiest.ratio.noise:.3f}; in the middle "
        f"{median(one.ratio.noise for one in cells):.3f}.",
        f"Texts that drafting changed: {sum(one.differing for one in cells)} groups.",
        "Ratios of seconds per token, decoding only; judged by processor time where the wall's "
        "null is wider than 3 %.",
    ]
    rows = [one.brief() for one in cells]
    title = f"speculation on by off, {opened.core.info.dtype}, one thread"
    if output is not None:
        notes.append(save(output, "never-slower", cells, title, notes))
    return Report(title, rows, checks, notes, {"cells": cells})


def _cells(
    opened: Opened, settings: Settings, batches: Sequence[int], tokens: tuple[int, int]
) -> list[Cell]:
    kinds = _QUICK_KINDS if settings.quick else (*KINDS, RANDOM)
    batches = batches or (_QUICK_BATCHES if settings.quick else _BATCHES)
    usual, fewer = tokens
    off = opened.side(OFF)
    tasks = embedded_tasks(kinds, _PROMPTS, opened.tokenizer, usual, settings.seed)
    tasks = {kind: worth_timing(off, prompts) for kind, prompts in tasks.items()}
    places = [
        Place(
            kind,
            batch,
            _cut(prompts, usual if batch < _LARGE else fewer),
            settings.count(_GROUPS, 2),
        )
        for kind, prompts in tasks.items()
        for batch in batches
    ]
    sides = {OFF: off, AGAIN: off, _ON: opened.side(_ON)}
    seconds = _QUICK_SECONDS if settings.quick else _SECONDS
    found = runs_by_place(opened.core, sides, places, seconds, settings.seed)
    return [
        cell(place, _ON, runs, place.prompts[0].temperature or 0.0)
        for place, runs in settings.track(found, len(places), "on by off")
    ]


def _cut(prompts: Sequence[Prompt], tokens: int) -> list[Prompt]:
    return [replace(prompt, new_tokens=tokens) for prompt in prompts]


def _rivals(opened: Opened, settings: Settings) -> Rivals:
    info = opened.core.info
    model = load_reference(info.model_path, getattr(torch, info.dtype.removeprefix("torch.")))
    count, off = settings.count(_ASKED, 2), opened.side(OFF)
    tasks = embedded_tasks(("rename", "edit"), count, opened.tokenizer, _LONG, settings.seed)
    both = zip(*(worth_timing(off, prompts) for prompts in tasks.values()), strict=False)
    asked = [prompt for pair in both for prompt in pair][:count]
    sides: dict[str, Side[list[Prompt]]] = {_ON: opened.side(_ON)}
    sides |= {f"lookup {length}": TransformersSide(model, length) for length in _THEIR_LENGTHS}
    # Every side answers everything once before: the first product of a shape takes oneDNN far
    # longer than those after it, and the sides do not meet new shapes equally often.
    inputs = [[prompt] for prompt in (*asked, *asked)]
    pairs = settings.track(interleaved(sides, inputs, settings.seed), len(inputs), "beside others")
    runs = list(pairs)[len(asked) :]
    # The length at which transformers is fastest is the one that leads least.
    best = min(_THEIR_LENGTHS, key=lambda length: speedup(runs, _ON, f"lookup {length}").value)
    return Rivals(best, runs)


def _named(one: Cell) -> str:
    return f"{one.workload}, {one.batch} at a time"
