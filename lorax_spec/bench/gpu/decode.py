"""Steps of plain decoding by their floor, and of verifying drafts by those of plain decoding."""

from __future__ import annotations

from collections.abc import Iterator

from lorax_spec.bench.gpu.figures import Figure
from lorax_spec.bench.gpu.stage import Stage
from lorax_spec.bench.gpu.steps import AGAIN, BASE, compare, random_prompts
from lorax_spec.types import Method, Speculation

#: Of the floor, alone and in a full batch.
_ALONE, _FULL = 0.80, 0.70
#: Nodes of a draft and the most that a step with it may take, by that of one row.
_DRAFTS_ALONE = {"8 rows": (7, 1.05), "a tree of 32 nodes": (32, 1.12)}
_DRAFTS_FULL = {"4 rows each": (3, 1.15)}


def figures(stage: Stage) -> Iterator[Figure]:
    sizes, cost = stage.sizes, stage.cost
    jobs = [(1, _ALONE, _DRAFTS_ALONE), (sizes.batch, _FULL, _DRAFTS_FULL)]
    for index, (batch, target, drafts) in enumerate(jobs):
        prompts = random_prompts(batch, sizes.context, cost.vocabulary, stage.seed)
        sides = {BASE: stage.window(), AGAIN: stage.window()}
        sides |= {
            name: stage.window(Speculation(Method.LOOKAHEAD, nodes))
            for name, (nodes, _) in drafts.items()
        }
        share = stage.share.part(1 / (len(jobs) - index))
        times = compare({**sides}, prompts, share, sizes.rounds, stage.seed)
        floor = cost.seconds(batch, sizes.context + sizes.steps / 2, stage.ceilings)
        where = f"batch {batch}, context {sizes.context}"
        yield Figure(f"decode, {where}: a step", 1000 * times.step(), " ms")
        yield Figure(f"decode, {where}: its floor", 1000 * floor, " ms")
        yield Figure(
            f"decode, {where}: floor by step", floor / times.step(), "", target, noise=times.noise
        )
        for name, (_, most) in drafts.items():
            what = f"verify {name}, {where}: by one row"
            ratio = times.ratio(name)
            yield Figure(what, ratio, "x", most, at_most=True, noise=times.noise)
