"""What adapters cost a full batch: LoRA by the base model, Medusa heads by drafts for free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lorax_spec.bench.gpu.adapter_files import HEADS
from lorax_spec.bench.gpu.figures import Figure
from lorax_spec.bench.gpu.sizes import Target
from lorax_spec.bench.gpu.stage import Stage
from lorax_spec.bench.gpu.steps import AGAIN, BASE, compare, random_prompts
from lorax_spec.errors import AdapterNotFound
from lorax_spec.types import AdapterRef, Method, Speculation

_ONE, _DISTINCT, _LOADED = "one LoRA", "distinct LoRAs", "base, adapters loaded"
_MOST_ONE, _MOST_LOADED, _MOST_HEADS = 1.10, 1.02, 1.10
#: Of distinct LoRAs, by shape: key heads shared by four leave the 8B less to hide them behind.
_MOST_DISTINCT = {Target.B7: 1.15}
_USUAL_DISTINCT = 1.20
_SAME_HEADS, _DISTINCT_HEADS, _FREE = "one adapter's heads", "distinct heads", "drafts for free"
_AHEAD = 3


def figures(stage: Stage) -> Iterator[Figure]:
    yield from _loras(stage)
    yield from _heads(stage)


def _loras(stage: Stage) -> Iterator[Figure]:
    sizes = stage.sizes
    ids = stage.adapters.loras
    prompts = random_prompts(sizes.batch, sizes.context, stage.cost.vocabulary, stage.seed)
    sides = {
        BASE: replace(stage.window(), before=lambda: _unload(stage)),
        AGAIN: replace(stage.window(), before=lambda: _unload(stage)),
        _LOADED: replace(stage.window(), before=lambda: _load(stage)),
        _ONE: stage.window(adapters=ids[:1]),
        _DISTINCT: stage.window(adapters=ids),
    }
    times = compare({**sides}, prompts, stage.share.part(0.6), sizes.rounds, stage.seed)
    where = f"batch {sizes.batch}, rank {sizes.rank}"
    most = _MOST_DISTINCT.get(stage.target, _USUAL_DISTINCT)
    promised = {
        f"{where}, one LoRA for all: by base": (_ONE, _MOST_ONE),
        f"{where}, {len(ids)} distinct LoRAs: by base": (_DISTINCT, most),
        f"{where}, base only beside {len(ids)} loaded: by base": (_LOADED, _MOST_LOADED),
    }
    for what, (side, target) in promised.items():
        ratio = times.ratio(side)
        yield Figure(what, ratio, "x", target, at_most=True, noise=times.noise)
    size, bandwidth = stage.cost.lora_bytes(sizes.rank), stage.ceilings.bandwidth
    least = 1 + len(ids) * size / bandwidth / times.step()
    yield Figure(f"{where}, {len(ids)} distinct LoRAs: least by their bytes", least, "x")


def _heads(stage: Stage) -> Iterator[Figure]:
    """Drafts are as long on all sides, so that what differs is the heads."""
    sizes = stage.sizes
    prompts = random_prompts(sizes.batch, sizes.context, stage.cost.vocabulary, stage.seed)
    free = stage.window(Speculation(Method.LOOKAHEAD, _AHEAD))
    drafting = Speculation(Method.MEDUSA, _AHEAD)
    sides = {
        BASE: free,
        AGAIN: free,
        _FREE: stage.window(),
        _SAME_HEADS: stage.window(drafting, [HEADS]),
        _DISTINCT_HEADS: stage.window(drafting, stage.adapters.medusas),
    }
    times = compare({**sides}, prompts, stage.share, sizes.rounds, stage.seed)
    where = f"batch {sizes.batch}, {_AHEAD} nodes each"
    count = len(stage.adapters.medusas)
    distinct, same = times.ratio(_DISTINCT_HEADS), times.ratio(_SAME_HEADS)
    what = f"{where}, {count} distinct Medusa adapters: by as many rows without heads"
    yield Figure(what, distinct, "x", _MOST_HEADS, at_most=True, noise=times.noise)
    what = f"{where}, one Medusa adapter: by as many rows without heads"
    yield Figure(what, same, "x", noise=times.noise)
    what = f"{where}, {count} distinct Medusa adapters: by a step without drafts"
    yield Figure(what, times.ratio(_DISTINCT_HEADS, _FREE), "x")


def _load(stage: Stage) -> None:
    for adapter_id in stage.adapters.loras:
        stage.core.adapters.load(AdapterRef(adapter_id))


def _unload(stage: Stage) -> None:
    for adapter_id in stage.core.adapters.on_device():
        try:
            stage.core.adapters.unload(adapter_id)
        except AdapterNotFound:
            continue  # its folder and it are gone
