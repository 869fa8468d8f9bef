"""Speculation on by off on the wide model: what a token per forward is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from lorax_spec.bench.cells import AGAIN, OFF, WAVES, Cell, Place, cell, runs_by_place
from lorax_spec.bench.engine_side import EngineSide
from lorax_spec.bench.gpu.adapter_files import BOTH, CHAIN, MORE_HEADS
from lorax_spec.bench.gpu.figures import Figure
from lorax_spec.bench.gpu.share import Share
from lorax_spec.bench.gpu.stage import Stage
from lorax_spec.bench.workload import Prompt, prompts
from lorax_spec.types import Method, Speculation

#: Speed by tokens per forward at batch 1; by off where a forward gives this many; by off anywhere.
_EFFICIENT, _MANY, _PAYS, _NEVER_BELOW, _BOTH = 0.85, 2.0, 1.2, 0.97, 1.15
_KINDS = ("rename", "edit")
_MOST_GROUPS = 6
_TREE_NODES = 24


def figures(stage: Stage, cells: list[Cell]) -> Iterator[Figure]:
    """The cells, for plots, are added to ``cells``."""
    core = stage.core
    drafters = {
        "medusa chain": Speculation(Method.MEDUSA, _TREE_NODES, CHAIN),
        "medusa tree": Speculation(Method.MEDUSA, _TREE_NODES, MORE_HEADS),
        "medusa, as many as pay": Speculation(Method.MEDUSA, None, MORE_HEADS),
        "prompt lookup": Speculation(Method.PROMPT_LOOKUP),
    }
    sides = {name: EngineSide(core, chosen) for name, chosen in drafters.items()}
    batches = (1, stage.sizes.batch)
    for batch in batches:
        share = stage.share.part(0.4 if batch == 1 else 0.7)
        found = _cells(stage, sides, batch, _KINDS, share)
        cells += found
        for one in found:
            yield from _judged(one, noise=one.ratio.noise)
    both = {"LoRA + Medusa": EngineSide(core, Speculation(Method.MEDUSA), BOTH)}
    for one in _cells(stage, both, 1, ("tests",), stage.share):
        cells.append(one)
        what = "LoRA + Medusa, batch 1: by the base model without either"
        speed = one.ratio.judged
        yield Figure(what, speed, "x", _BOTH, noise=one.ratio.noise)
        yield Figure("LoRA + Medusa, batch 1: tokens per forward", one.tokens_per_forward)


def _judged(one: Cell, noise: float) -> Iterator[Figure]:
    where, speed = f"{one.drafter}, batch {one.batch}", one.ratio.judged
    yield Figure(f"{where}: tokens per forward", one.tokens_per_forward)
    least = _NEVER_BELOW
    if one.batch > 1 and one.tokens_per_forward >= _MANY:
        least = _PAYS
    yield Figure(f"{where}: speed by off", speed, "x", least, noise=noise)
    if one.batch == 1:
        efficiency = speed.value / one.tokens_per_forward
        yield Figure(f"{where}: speed by tokens per forward", efficiency, "", _EFFICIENT)


def _cells(
    stage: Stage, sides: Mapping[str, EngineSide], batch: int, kinds: tuple[str, ...], share: Share
) -> list[Cell]:
    off = EngineSide(stage.core)
    # A place's group is WAVES batches; each group runs twice on every side, and once beforehand.
    asked = _asked(stage, kinds, WAVES * batch)
    most = 1 if stage.dry else _MOST_GROUPS
    place = Place("+".join(kinds), batch, asked, most)
    by_side = {OFF: off, AGAIN: off, **sides}
    ((_, runs),) = runs_by_place(stage.core, by_side, [place], max(0.0, share.left), stage.seed)
    return [cell(place, name, runs, 0.0) for name in sides]


def _asked(stage: Stage, kinds: tuple[str, ...], count: int) -> list[Prompt]:
    tokens = stage.sizes.new_tokens
    return [replace(p, new_tokens=tokens) for p in prompts(kinds, count, stage.tokenizer)]
