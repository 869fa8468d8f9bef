"""The same requests to transformers' generate with peft, on the same device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, cycle, islice
from typing import Any

import torch

from lorax_spec.bench.comparison import speedup
from lorax_spec.bench.engine_side import EngineSide, drive
from lorax_spec.bench.gpu.figures import Figure
from lorax_spec.bench.gpu.stage import Stage
from lorax_spec.bench.gpu.timing import wait_for
from lorax_spec.bench.pairs import Run, Side, interleaved, timed
from lorax_spec.bench.workload import Prompt, prompts

_ALONE, _MANY = 3.0, 10.0
_ADAPTERS = 8
_OURS, _AGAIN, _MIXED, _GROUPED = "ours", "ours again", "mixed", "one adapter after the other"

#: Makes answers of so many tokens to rows of ids [rows, length], with adapters in turn.
Generate = Callable[[torch.Tensor, Sequence[str], int], None]


@dataclass(frozen=True)
class Ours:
    """Requests on ``adapters`` in turn, all at once."""

    stage: Stage
    adapters: Sequence[str | None]

    def __call__(self, asked: Sequence[Prompt], /) -> Run:
        core = self.stage.core
        core.forget_prefixes()
        sides = [EngineSide(core, adapter=adapter) for adapter in self.adapters]
        pairs = zip(asked, cycle(sides), strict=False)
        requests = [next(side.requests([prompt])) for prompt, side in pairs]
        _, seconds, cpu_seconds = timed(lambda: drive(core, requests))
        return _run(asked, seconds, cpu_seconds)


@dataclass(frozen=True)
class Theirs:
    """Prompts of one length in one batch, without padding."""

    device: torch.device
    adapters: Sequence[str]
    generate: Generate

    @torch.inference_mode()
    def __call__(self, asked: Sequence[Prompt], /) -> Run:
        ids = torch.tensor([prompt.ids for prompt in asked], device=self.device)
        names = list(islice(cycle(self.adapters), len(asked)))

        def work() -> None:
            self.generate(ids, names, asked[0].new_tokens)
            wait_for(self.device)

        _, seconds, cpu_seconds = timed(work)
        return _run(asked, seconds, cpu_seconds)


def figures(stage: Stage) -> Iterator[Figure]:
    _ = stage.core  # takes its memory first, as it would
    model: Any = stage.widening.model()
    asked = _asked(stage)
    plain = Theirs(stage.device, ["none"], lambda ids, _, most: _generate(model, ids, most))
    sides: dict[str, Side[list[Prompt]]] = {_OURS: Ours(stage, [None]), _MIXED: plain}
    sides[_AGAIN] = sides[_OURS]
    share = stage.share.part(0.4)
    groups = share.fill(([asked[i % len(asked)]] for i in count()), stage.sizes.rounds)
    runs = list(interleaved(sides, groups, stage.seed))
    found = speedup(runs, _OURS, _MIXED)
    yield Figure("by transformers' generate, one request", found, "x", _ALONE)

    ids = stage.adapters.loras[: min(_ADAPTERS, len(stage.adapters.loras))]
    peft_model = _with_peft(stage, model, ids)
    sides = {_OURS: Ours(stage, ids), _AGAIN: Ours(stage, ids)}
    sides[_MIXED] = Theirs(stage.device, ids, lambda *a: _generate_mixed(peft_model, *a))
    sides[_GROUPED] = Theirs(stage.device, ids, lambda *a: _generate_grouped(peft_model, *a))
    rounds = max(1, stage.sizes.rounds - 1)
    runs = list(interleaved(sides, stage.share.fill((asked for _ in count()), rounds), stage.seed))
    ratios = {name: speedup(runs, _OURS, name) for name in (_MIXED, _GROUPED)}
    best = min(ratios, key=lambda name: ratios[name].value)
    what = f"by generate + peft, {len(asked)} requests on {len(ids)} adapters"
    note = f"peft's faster way: {best}"
    yield Figure(what, ratios[best], "x", _MANY, note=note)


def _asked(stage: Stage) -> list[Prompt]:
    """Cut to one length: padding would be theirs alone."""
    found = prompts(("code", "tests", "prose"), stage.sizes.batch, stage.tokenizer)
    length = min(len(prompt.ids) for prompt in found)
    tokens = stage.sizes.new_tokens
    return [
        replace(prompt, ids=prompt.ids[-length:], new_tokens=tokens, ignore_end=True)
        for prompt in found
    ]


def _with_peft(stage: Stage, model: Any, ids: Sequence[str]) -> Any:
    from peft import PeftModel

    root = stage.adapters.root
    made = PeftModel.from_pretrained(model, str(root / ids[0]), adapter_name=ids[0])
    for adapter_id in ids[1:]:
        made.load_adapter(str(root / adapter_id), adapter_name=adapter_id)
    return made.to(stage.dtype).eval()


def _generate_mixed(model: Any, ids: torch.Tensor, names: Sequence[str], most: int) -> None:
    _generate(model, ids, most, adapter_names=list(names))


def _generate_grouped(model: Any, ids: torch.Tensor, names: Sequence[str], most: int) -> None:
    for name in dict.fromkeys(names):
        rows = [row for row, each in enumerate(names) if each == name]
        model.set_adapter(name)
        _generate(model, ids[rows], most)


def _generate(model: Any, ids: torch.Tensor, most: int, **options: Any) -> None:
    """Greedy, and never shorter."""
    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=most,
        min_new_tokens=most,
        do_sample=False,
        **options,
    )


def _run(asked: Sequence[Prompt], seconds: float, cpu_seconds: float) -> Run:
    """Tokens are counted, not compared: these are the small model's guesses on noise."""
    return Run(tuple((0,) * prompt.new_tokens for prompt in asked), seconds, cpu_seconds)
