"""A thousand adapters on disk by a few: what exchanging them costs throughput."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from lorax_spec.bench.callers import Callers
from lorax_spec.bench.comparison import speedup
from lorax_spec.bench.engine_side import EngineSide
from lorax_spec.bench.gpu.figures import Figure
from lorax_spec.bench.gpu.stage import Stage
from lorax_spec.bench.judging import margin
from lorax_spec.bench.pairs import Run, Side, interleaved, timed
from lorax_spec.bench.workload import Prompt, prompts
from lorax_spec.bench.zoo import zipf
from lorax_spec.engine.core import EngineCore
from lorax_spec.types import AdapterRef

_FEW, _AT_LEAST = 5, 0.93
_MANY, _SOME, _NULL = "many", "a few", "a few again"
#: Requests of a run, in batches.
_BATCHES, _BATCHES_DRY = 3, 1


@dataclass(frozen=True)
class _Asking:
    """As many callers as fit a batch, each request on an adapter that is drawn for it."""

    core: EngineCore
    at_once: int
    draw: Callable[[], str]

    def __call__(self, asked: Sequence[Prompt], /) -> Run:
        requests = [
            replace(request, adapter=AdapterRef(self.draw()))
            for request in EngineSide(self.core).requests(asked)
        ]
        self.core.forget_prefixes()
        callers = Callers(self.core, self.at_once)
        calls, seconds, cpu_seconds = timed(lambda: callers.ask(requests))
        for call in calls:
            if call.error is not None:
                raise call.error
        return Run(tuple(tuple(call.tokens) for call in calls), seconds, cpu_seconds)


def figures(stage: Stage) -> Iterator[Figure]:
    """Adapters are links to one file, which the system has in its cache: what is measured is
    reading, copying and making room, not the disk."""
    sizes, core = stage.sizes, stage.core
    ids = stage.adapters.many
    dice, likely = np.random.default_rng(stage.seed), zipf(len(ids), 1.0)
    few = random.Random(stage.seed)
    sides: dict[str, Side[list[Prompt]]] = {
        _MANY: _Asking(core, sizes.batch, lambda: ids[dice.choice(len(ids), p=likely)]),
        _SOME: _Asking(core, sizes.batch, lambda: few.choice(ids[:_FEW])),
    }
    sides[_NULL] = sides[_SOME]
    batches = _BATCHES_DRY if stage.dry else _BATCHES
    asked = [
        replace(prompt, new_tokens=sizes.new_tokens, ignore_end=True)
        for prompt in prompts(("code", "prose"), batches * sizes.batch, stage.tokenizer)
    ]
    inputs = stage.share.fill((asked for _ in count()), 1)
    runs = list(interleaved(sides, inputs, stage.seed))
    what = f"{len(ids)} adapters on disk: throughput by that of {_FEW}"
    noise = margin(speedup(runs, _NULL, _SOME))
    yield Figure(what, speedup(runs, _MANY, _SOME), "x", _AT_LEAST, noise=noise)
