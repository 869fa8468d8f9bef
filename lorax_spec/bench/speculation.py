"""Workloads against drafters against batch sizes: one table, one page of plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorax_spec.bench.cells import AGAIN, OFF, Cell, Place, cell, runs_by_place
from lorax_spec.bench.plotting import save
from lorax_spec.bench.report import Report
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.subject import EMBEDDED, Opened, Subject
from lorax_spec.bench.tasks import KINDS, RANDOM, embedded_tasks, of_file
from lorax_spec.bench.workload import Prompt
from lorax_spec.errors import InvalidArgument
from lorax_spec.types import Method

DRAFTERS = (
    OFF,
    Method.AUTO.value,
    Method.PROMPT_LOOKUP.value,
    Method.MEDUSA.value,
    "hydra",
    Method.DRAFT_MODEL.value,
    Method.LOOKAHEAD.value,
)
_PROMPTS, _TOKENS, _QUICK_TOKENS = 24, 64, 24
_GROUPS, _SECONDS, _QUICK_SECONDS = 4, 6.0, 0.5


@dataclass(frozen=True)
class Plan:
    """What to measure; without a workload file the embedded prompts, and random ones."""

    subject: Subject = EMBEDDED
    workload: Path | None = None
    drafters: Sequence[str] = DRAFTERS
    batches: Sequence[int] = (1, 4, 16, 64)
    temperatures: Sequence[float] = (0.0, 0.8)
    output: Path | None = None

    def __post_init__(self) -> None:
        """Raises InvalidArgument for what cannot be measured."""
        for drafter in self.drafters:
            if drafter not in DRAFTERS:
                raise InvalidArgument(f"no drafter {drafter}; there are {', '.join(DRAFTERS)}")
        if not self.drafters or not self.batches or not self.temperatures:
            raise InvalidArgument("at least one drafter, batch size and temperature is needed")
        if min(self.batches) < 1 or min(self.temperatures) < 0:
            raise InvalidArgument("batch sizes begin at 1, temperatures at 0")


def measure(settings: Settings, plan: Plan | None = None) -> Report:
    """Every drafter by off, and off by itself: the noise.  Drafts are as large as the controller
    wants."""
    plan = plan or Plan()
    subject = replace(plan.subject, draft_model=Method.DRAFT_MODEL.value in plan.drafters)
    with subject.open() as opened:
        drafters = [one for one in plan.drafters if one in opened.drafters]
        tasks = _tasks(opened, plan, settings)
        cells = []
        for index, temperature in enumerate(plan.temperatures):
            mine = {kind: p for kind, p in tasks.items() if index == 0 or p[0].temperature is None}
            cells += _cells(opened, drafters, mine, temperature, plan, settings)
        exact = "deterministic" if opened.core.info.deterministic else "not deterministic"
        missing = sorted({*plan.drafters} - {OFF, *drafters})
    notes = [
        "Speeds by off, decoding only, median of the pairs; null: off by itself.  Per fw: tokens "
        "per forward pass; by depth: accepted of the nodes drafted 1, 2, ... tokens ahead.",
        f"{exact}; groups whose texts drafting changed: {sum(one.differing for one in cells)}.",
    ]
    if missing:
        notes.append(f"Not at hand with this model: {', '.join(missing)}.")
    rows = [one.brief() for one in cells]
    title = f"drafters by off, {opened.core.info.dtype}, one thread"
    if plan.output is not None and cells:
        notes.append(save(plan.output, "speculation", cells, title, notes))
    return Report(title, rows, (), notes, {"cells": cells})


def _tasks(opened: Opened, plan: Plan, settings: Settings) -> dict[str, list[Prompt]]:
    tokens = _QUICK_TOKENS if settings.quick else _TOKENS
    if plan.workload is not None:
        return of_file(plan.workload, opened.tokenizer, tokens)
    kinds = ("rename", RANDOM) if settings.quick else (*KINDS, RANDOM)
    return embedded_tasks(kinds, _PROMPTS, opened.tokenizer, tokens, settings.seed)


def _cells(
    opened: Opened,
    drafters: Sequence[str],
    tasks: Mapping[str, Sequence[Prompt]],
    temperature: float,
    plan: Plan,
    settings: Settings,
) -> list[Cell]:
    off = opened.side(OFF, temperature=temperature)
    sides = {OFF: off, AGAIN: off}
    sides |= {one: opened.side(one, temperature=temperature) for one in drafters}
    most = settings.count(_GROUPS, 1)
    places = [
        Place(kind, batch, prompts, most)
        for kind, prompts in tasks.items()
        for batch in plan.batches
    ]
    seconds = _QUICK_SECONDS if settings.quick else _SECONDS
    found = runs_by_place(opened.core, sides, places, seconds, settings.seed)
    cells = []
    for place, runs in settings.track(found, len(places), f"temperature {temperature:g}"):
        hot = place.prompts[0].temperature
        own = temperature if hot is None else hot
        cells += [cell(place, drafter, runs, own) for drafter in drafters]
    return cells
