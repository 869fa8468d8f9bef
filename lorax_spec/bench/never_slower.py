"""Speculation on against off, over workloads and batch sizes: it pays, or it steps aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from statistics import geometric_mean, median

from lorax_spec.bench.cells import AGAIN, OFF, Cell, Place, cell, runs_by_place, worth_timing
from lorax_spec.bench.judging import FLOOR
from lorax_spec.bench.plotting import save
from lorax_spec.bench.report import Check, Report
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.subject import EMBEDDED, Opened, Subject
from lorax_spec.bench.tasks import KINDS, RANDOM, check_kinds, embedded_tasks
from lorax_spec.bench.workload import Prompt

_KINDS = (*KINDS, RANDOM)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_QUICK_KINDS, _QUICK_BATCHES = ("rename", RANDOM), (1, 8)
#: Prompts of each kind; requests at a time that are many.
_PROMPTS, _LARGE = 24, 32
#: (tokens, tokens of many at a time) of the embedded model, and of a larger one.
_TOKENS, _TOKENS_OF_LARGER = (56, 32), (40, 24)
#: Seconds for a cell before it takes no further group, unless their number is given.
_SECONDS, _QUICK_SECONDS = 7.0, 1.0
#: The most groups of a cell.
_GROUPS = 12
_ON = "auto"

#: A memory-bound model: from this many tokens per forward on, so many times as fast.
_MANY, _PAYS = 2.0, 1.6


def measure(
    settings: Settings,
    subject: Subject = EMBEDDED,
    batches: Sequence[int] = (),
    workloads: Sequence[str] = (),
    output: Path | None = None,
) -> Report:
    """``batches`` and ``workloads``: others than the usual ones.

    Raises InvalidArgument for a workload that there is not.
    """
    kinds = workloads or (_QUICK_KINDS if settings.quick else _KINDS)
    batches = batches or (_QUICK_BATCHES if settings.quick else _BATCHES)
    check_kinds(kinds, _KINDS)
    larger = subject.model_id is not None
    with subject.open() as opened:
        tokens = _TOKENS_OF_LARGER if larger else _TOKENS
        cells = _cells(opened, settings, kinds, batches, tokens)
    slower = [one for one in cells if one.ratio.is_slower]
    checks = [
        Check("cells where drafting is slower than 0.98 beyond the noise", len(slower), 0, "", True)
    ]
    for workload in dict.fromkeys(one.workload for one in cells):
        mine = [one.ratio.judged.value for one in cells if one.workload == workload]
        what = f"on by off, {workload}, mean of the batch sizes"
        checks.append(Check(what, geometric_mean(mine), FLOOR, "x"))
    if larger:
        many = [one for one in cells if one.tokens_per_forward >= _MANY]
        worst = min((one.ratio.judged.value for one in many), default=float("nan"))
        checks.append(
            Check(f"on by off, worst of {len(many)} cells of 2 tokens a forward", worst, _PAYS, "x")
        )
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
    opened: Opened,
    settings: Settings,
    kinds: Sequence[str],
    batches: Sequence[int],
    tokens: tuple[int, int],
) -> list[Cell]:
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
    usual_seconds = _QUICK_SECONDS if settings.quick else _SECONDS
    seconds = inf if settings.samples else usual_seconds
    found = runs_by_place(opened.core, sides, places, seconds, settings.seed)
    return [
        cell(place, _ON, runs, place.prompts[0].temperature or 0.0)
        for place, runs in settings.track(found, len(places), "on by off")
    ]


def _cut(prompts: Sequence[Prompt], tokens: int) -> list[Prompt]:
    return [replace(prompt, new_tokens=tokens) for prompt in prompts]


def _named(one: Cell) -> str:
    return f"{one.workload}, {one.batch} at a time"
