"""Many adapters asked for by Zipf's law, against the same questions to one adapter."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import psutil
import torch

from lorax_spec.bench.callers import Call, Callers
from lorax_spec.bench.comparison import Runs
from lorax_spec.bench.engine_side import EngineSide
from lorax_spec.bench.pairs import Run, interleaved, timed
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.workload import Prompt, prompts
from lorax_spec.bench.zoo import zipf
from lorax_spec.engine.core import EngineCore
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.types import AdapterRef

CALLERS = 32
MANY, ONE, NULL = "many adapters", "one adapter", "one adapter again"
_EXPONENT = 1.0
_KINDS = ("code", "tests", "prose", "rename", "edit", "write", "doc")
_QUICK_KINDS = ("doc",)
_TOKENS, _QUESTIONS = 64, 128
_QUICK_TOKENS, _QUICK_QUESTIONS = 4, 32
#: Of the answers by which every adapter is used once, before anything is measured.
_GREETING = 2


@dataclass(frozen=True)
class Memory:
    """Bytes: resident, and of all tensors that Python knows of, but for oneDNN's packed ones."""

    resident: int
    tensors: int

    @classmethod
    def now(cls) -> Memory:
        gc.collect()
        # Not isinstance, for which some of all these objects would make up a class and warn of it.
        alive = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
        storages = [one.untyped_storage() for one in alive if one.layout is torch.strided]
        sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
        return cls(psutil.Process().memory_info().rss, sum(sizes.values()))


@dataclass(frozen=True)
class Served:
    """``runs`` by side; ``calls`` to many adapters once the working set was warm; errors of all
    ``asked``; memory ``before`` the runs and ``after`` them."""

    runs: Runs
    calls: Sequence[Call]
    errors: Sequence[str]
    asked: int
    before: Memory
    after: Memory


@dataclass(frozen=True)
class _Asking:
    """A side that asks each prompt of an adapter that is drawn for it.

    It draws anew in every round: of an engine that is asked for the same adapters again, all would
    be at hand.  So the texts differ between rounds, and only their lengths do not.
    """

    callers: Callers
    core: EngineCore
    draw: Callable[[], str]
    calls: list[Call] = field(default_factory=list)

    def __call__(self, prompts: Sequence[Prompt], /) -> Run:
        requests = [
            replace(request, adapter=AdapterRef(self.draw()))
            for request in EngineSide(self.core).requests(prompts)
        ]
        self.core.forget_prefixes()
        calls, seconds, cpu_seconds = timed(lambda: self.callers.ask(requests))
        self.calls.extend(calls)
        return Run(tuple(tuple(call.tokens) for call in calls), seconds, cpu_seconds)


def serve(
    core: EngineCore, tokenizer: TextTokenizer, ids: Sequence[str], settings: Settings
) -> Served:
    """Use every adapter once, then draw them by Zipf's law, between runs of one of them alone.

    Raises InternalError or RuntimeError where the engine's books are wrong afterwards.
    """
    tokens, questions = _TOKENS, _QUESTIONS
    if settings.quick:
        tokens, questions = _QUICK_TOKENS, _QUICK_QUESTIONS
    asked = [
        replace(prompt, new_tokens=tokens, ignore_end=True)
        for prompt in prompts(_QUICK_KINDS if settings.quick else _KINDS, questions, tokenizer)
    ]
    ranked = random.Random(settings.seed).sample(ids, len(ids))
    in_turn, likely = iter(ids), zipf(len(ids), _EXPONENT)
    dice = np.random.default_rng(settings.seed)
    callers = Callers(core, CALLERS)
    greeting = _Asking(callers, core, lambda: next(in_turn))
    many = _Asking(callers, core, lambda: ranked[dice.choice(len(ranked), p=likely)])
    one, null = (_Asking(callers, core, lambda: ranked[0]) for _ in range(2))
    greeting([replace(asked[i % questions], new_tokens=_GREETING) for i in range(len(ids))])
    many(asked)
    warming = [*greeting.calls, *many.calls]
    many.calls.clear()
    before = Memory.now()
    groups = settings.count(3, 1)
    pairs = interleaved({MANY: many, ONE: one, NULL: null}, [asked] * groups, settings.seed)
    runs = list(settings.track(pairs, groups, f"{len(ids)} adapters"))
    after = Memory.now()
    core.check_integrity()
    calls = [*warming, *many.calls, *one.calls, *null.calls]
    errors = [str(call.error) for call in calls if call.error is not None]
    return Served(runs, many.calls, errors, len(calls), before, after)
