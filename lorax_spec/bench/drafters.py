"""Tokens per forward pass of the draft model and of lookahead."""

from __future__ import annotations

from lorax_spec.bench.counting import Counted, count
from lorax_spec.bench.report import Check, Report, Value
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.subject import Subject
from lorax_spec.bench.tasks import KINDS
from lorax_spec.bench.workload import prompts
from lorax_spec.types import Method

_NODES = {Method.DRAFT_MODEL.value: (4, 8), Method.LOOKAHEAD.value: (15, 31)}
_TEMPERATURES = (0.0, 0.8)
_TARGET = 1.3


def measure(settings: Settings) -> Report:
    rows: list[dict[str, Value]] = []
    checks: list[Check] = []
    each = settings.count(24, 4)
    jobs = [(d, t, kind) for d in _NODES for t in _TEMPERATURES for kind in KINDS]
    best: dict[tuple[str, float], tuple[float, str]] = {}
    with Subject(draft_model=True).open() as opened:
        for drafter, temperature, kind in settings.track(jobs, len(jobs), "drafters"):
            asked = prompts((kind,), each, opened.tokenizer)
            counted = {
                nodes: count(opened.side(drafter, nodes, temperature), asked)
                for nodes in _NODES[drafter]
            }
            rows += [_row(drafter, kind, temperature, n, one) for n, one in counted.items()]
            found = max(one.tokens.value for one in counted.values())
            known = best.get((drafter, temperature), (0.0, ""))
            best[drafter, temperature] = max(known, (found, kind))
    for (drafter, temperature), (found, kind) in best.items():
        what = f"tokens per forward, {drafter}, {kind}, temperature {temperature:g}"
        checks.append(Check(what, found, _TARGET))
    return Report(
        "tokens per forward pass: a draft model of a sixth of the size, and lookahead",
        rows,
        checks,
        ["Judged: each drafter where it does best.  Counts, on answers that do not loop."],
    )


def _row(
    drafter: str, kind: str, temperature: float, nodes: int, counted: Counted
) -> dict[str, Value]:
    return {
        "drafter": drafter,
        "workload": kind,
        "T": temperature,
        "nodes": nodes,
        "tokens per forward": counted.tokens,
        "drafted per forward": counted.drafted,
        "answers": len(counted.answers),
        "looped": counted.left_out,
    }
