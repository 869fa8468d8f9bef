"""Tokens per forward pass: what drafts are worth, whatever the machine.

Counted over decoding passes: an answer's first token comes from the prompt's own pass, so an
answer of ``n`` tokens in ``f`` passes counts as ``n - 1`` tokens in ``f - 1`` passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorax_spec.bench.engine_side import Answer, EngineSide, drive
from lorax_spec.bench.report import Check, Report, Value
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.statistics import Estimate, ratio_of_sums
from lorax_spec.bench.workload import prompts, worth_counting
from lorax_spec.engine.engine import Engine
from lorax_spec.types import Method, Speculation

_COPYING = ("rename", "edit")
_AT_ONCE = 16
#: Prompt lookup's draft length that is judged; others are shown beside it.
_JUDGED = 5


@dataclass(frozen=True)
class Case:
    """One drafter on one workload; ``nodes`` are drafted each step."""

    kinds: tuple[str, ...]
    temperature: float
    nodes: int
    adapter: str | None = None
    heads: str | None = None
    target: float | None = None

    @property
    def speculation(self) -> Speculation:
        method = Method.PROMPT_LOOKUP if self._looks_up else Method.MEDUSA
        return Speculation(method, self.nodes, self.heads)

    @property
    def drafter(self) -> str:
        if self._looks_up:
            return f"prompt lookup {self.nodes}"
        shape = "tree" if self.nodes > 4 else "chain"
        heads = (self.heads or self.adapter or "").removeprefix("demo/")
        return f"{heads} {shape} {self.nodes}"

    @property
    def name(self) -> str:
        return f"{self.drafter}, {' and '.join(self.kinds)}, temperature {self.temperature:g}"

    @property
    def _looks_up(self) -> bool:
        return self.adapter is None and self.heads is None


def cases() -> Iterator[Case]:
    for temperature, target in ((0.0, 3.3), (0.8, 3.0)):
        for nodes in (3, 5, 8, 10):
            judged = target if nodes == _JUDGED else None
            yield Case(_COPYING, temperature, nodes, target=judged)
    base = "demo/medusa"
    yield Case(("rename",), 0.0, 4, heads=base, target=1.9)
    yield Case(("rename",), 0.0, 8, heads=base, target=2.3)
    yield Case(("code",), 0.8, 4, heads=base, target=1.35)
    yield Case(("code",), 0.8, 8, heads=base, target=1.7)
    for nodes in (3, 8):
        yield Case(("rename",), 0.0, nodes, heads="demo/medusa-v1")
        yield Case(("code",), 0.8, nodes, heads="demo/medusa-v1")
    for temperature in (0.0, 0.8):
        for nodes in (4, 8):
            yield Case(("tests",), temperature, nodes, adapter="demo/tests-medusa")
            yield Case(("tests",), temperature, nodes, adapter="demo/tests", heads=base)
        for nodes in (3, 8):
            yield Case(("rename", "doc"), temperature, nodes, "demo/pirate", "demo/pirate-medusa")
            yield Case(("rename", "doc"), temperature, nodes, "demo/pirate", base)


def measure(settings: Settings) -> Report:
    rows, checks = [], []
    chosen = [case for case in cases() if case.target is not None or not settings.quick]
    count = settings.count(48, 16)
    with Engine(dtype="float32") as engine:
        for case in settings.track(chosen, len(chosen), "tokens per forward"):
            answers = answer(case, engine, count, settings.seed)
            good = [one for one in answers if worth_counting(one.tokens)]
            figure = tokens_per_forward(good)
            rows.append(_row(case, answers, good, figure))
            if case.target is not None:
                checks.append(Check(f"tokens per forward, {case.name}", figure.value, case.target))
    return Report(
        "tokens per forward pass, on answers that do not loop, float32",
        rows,
        checks,
        [
            "Decoding passes only: n tokens in f passes count as (n - 1) / (f - 1). "
            "Counts, not times: a busy machine does not change them."
        ],
    )


def answer(case: Case, engine: Engine, count: int, seed: int) -> list[Answer]:
    """``count`` answers, 16 at once, which changes no count."""
    side = EngineSide(engine.core, case.speculation, case.adapter, case.temperature, seed)
    requests = list(side.requests(prompts(case.kinds, count, engine.tokenizer)))
    groups = [requests[i : i + _AT_ONCE] for i in range(0, len(requests), _AT_ONCE)]
    return [one for group in groups for one in drive(engine.core, group)]


def tokens_per_forward(answers: Sequence[Answer]) -> Estimate:
    return ratio_of_sums(
        [len(one.tokens) - 1 for one in answers],
        [one.speculation.forward_passes - 1 for one in answers],
    )


def _row(
    case: Case, answers: Sequence[Answer], good: Sequence[Answer], figure: Estimate
) -> dict[str, Value]:
    drafted = sum(one.speculation.drafted_tokens for one in good)
    accepted = sum(one.speculation.accepted_tokens for one in good)
    return {
        "drafter": case.drafter,
        "LoRA": (case.adapter or "").removeprefix("demo/") or None,
        "workload": "+".join(case.kinds),
        "T": case.temperature,
        "tokens per forward": figure,
        "accepted": accepted / max(1, drafted),
        "answers": len(good),
        "looped": len(answers) - len(good),
    }
