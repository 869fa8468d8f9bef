"""Candidates ranked with the noise that will choose the token, against ranking without."""

from __future__ import annotations

from lorax_spec.bench.counting import Counted, count
from lorax_spec.bench.report import Check, Report, Value
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.subject import Subject
from lorax_spec.bench.tasks import KINDS
from lorax_spec.bench.workload import prompts
from lorax_spec.engine.drafting.drafter import Drafter
from lorax_spec.engine.drafting.hydra import HydraDrafter, ranked_by
from lorax_spec.engine.drafting.line_up import line_up
from lorax_spec.engine.drafting.medusa import MedusaDrafter
from lorax_spec.engine.drafting.ranking import Ranking
from lorax_spec.engine.loading import Loaded
from lorax_spec.speculation.cost import StepCost

_NODES, _TEMPERATURE = 16, 0.8
#: What coupling must bring where text is free; where it is copied it must not cost.
_FREE, _MORE, _COPIED = ("code", "prose"), 1.25, ("rename", "edit")


def plain_line_up(loaded: Loaded, cost: StepCost) -> list[Drafter]:
    """An engine's drafters, with heads ranked as if requests were greedy."""
    plain = Ranking(coupled=False)
    instead: dict[str, Drafter] = {
        drafter.name: drafter
        for drafter in (
            MedusaDrafter(loaded.model, plain),
            HydraDrafter(loaded.model, ranked_by(plain)),
        )
    }
    return [instead.get(drafter.name, drafter) for drafter in line_up(loaded, cost)]


def measure(settings: Settings) -> Report:
    subject, each = Subject(), settings.count(48, 6)
    jobs = [(heads, kind) for heads in subject.heads() for kind in KINDS]
    found: dict[tuple[str, str], list[Counted]] = {}
    for makes in (plain_line_up, line_up):
        with subject.open(makes) as opened:
            for heads, kind in settings.track(jobs, len(jobs), "coupled drafts"):
                asked = prompts((kind,), each, opened.tokenizer)
                side = opened.side(heads, _NODES, _TEMPERATURE)
                found.setdefault((heads, kind), []).append(count(side, asked))
    rows: list[dict[str, Value]] = []
    checks: list[Check] = []
    for (heads, kind), (plain, coupled) in found.items():
        gain = coupled.accepted.value / plain.accepted.value
        differing = sum(a != b for a, b in zip(plain.texts, coupled.texts, strict=True))
        rows.append(
            {
                "heads": heads,
                "workload": kind,
                "plain": plain.accepted,
                "coupled": coupled.accepted,
                "gain": gain,
                "answers": len(coupled.answers),
                "looped": coupled.left_out,
                "differing": differing,
            }
        )
        if kind in _FREE or kind in _COPIED:
            target = _MORE if kind in _FREE else 1.0
            checks.append(Check(f"coupled by plain, {heads}, {kind}", gain, target, "x"))
    differing = sum(int(str(row["differing"])) for row in rows)
    checks.append(Check("texts that coupling changed", differing, 0, at_most=True))
    return Report(
        f"accepted tokens per forward pass, {_NODES} nodes, temperature {_TEMPERATURE}",
        rows,
        checks,
        ["Plain: candidates as for a greedy request.  Counts, on answers that do not loop."],
    )
