"""Heads and prompt lookup in one tree against each of them alone, at the same number of nodes."""

from __future__ import annotations

from lorax_spec.bench.counting import Counted, count, together
from lorax_spec.bench.report import Check, Report, Value
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.subject import Subject
from lorax_spec.bench.tasks import KINDS
from lorax_spec.bench.workload import prompts
from lorax_spec.types import Method

_NODES = 16
_TEMPERATURES = (0.0, 0.8)
_LOOKUP, _MERGED = Method.PROMPT_LOOKUP.value, Method.AUTO.value


def measure(settings: Settings) -> Report:
    rows: list[dict[str, Value]] = []
    checks: list[Check] = []
    each = settings.count(24, 4)
    with Subject().open() as opened:
        heads = next(iter(opened.heads))
        drafters = (heads, _LOOKUP, _MERGED)
        jobs = [(temperature, kind) for temperature in _TEMPERATURES for kind in KINDS]
        found: dict[tuple[float, str], dict[str, Counted]] = {}
        for temperature, kind in settings.track(jobs, len(jobs), "merged drafts"):
            asked = prompts((kind,), each, opened.tokenizer)
            found[temperature, kind] = {
                drafter: count(opened.side(drafter, _NODES, temperature), asked)
                for drafter in drafters
            }
    for temperature in _TEMPERATURES:
        of = {kind: found[temperature, kind] for kind in KINDS}
        of["in all"] = {d: together([of[kind][d] for kind in KINDS]) for d in drafters}
        rows += [_row(kind, temperature, counted, heads) for kind, counted in of.items()]
        for kind in KINDS:
            checks.append(
                Check(
                    f"merged by the better alone, {kind}, temperature {temperature:g}",
                    _lead(of[kind], heads),
                    1.0,
                    "x",
                )
            )
    return Report(
        f"accepted tokens per forward pass, {_NODES} nodes: {heads}, prompt lookup, both merged",
        rows,
        checks,
        ["Counts, on answers that do not loop; a busy machine does not change them."],
    )


def _lead(counted: dict[str, Counted], heads: str) -> float:
    better = max(counted[heads].accepted.value, counted[_LOOKUP].accepted.value)
    return counted[_MERGED].accepted.value / better


def _row(
    kind: str, temperature: float, counted: dict[str, Counted], heads: str
) -> dict[str, Value]:
    return {
        "workload": kind,
        "T": temperature,
        heads: counted[heads].accepted,
        "lookup": counted[_LOOKUP].accepted,
        "merged": counted[_MERGED].accepted,
        "by the better": _lead(counted, heads),
        "answers": len(counted[_MERGED].answers),
        "looped": counted[_MERGED].left_out,
    }
