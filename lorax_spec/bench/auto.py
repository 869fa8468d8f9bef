"""``auto`` against every single drafter, all under the controller, on each workload and on all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorax_spec.bench.cells import AGAIN, OFF, Place, ratio, runs_by_place, worth_timing
from lorax_spec.bench.comparison import Runs
from lorax_spec.bench.judging import Ratio
from lorax_spec.bench.report import Check, Report, Value
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.statistics import Estimate, median_ratio
from lorax_spec.bench.subject import EMBEDDED, Opened, Subject
from lorax_spec.bench.tasks import KINDS, check_kinds, embedded_tasks
from lorax_spec.bench.workload import Prompt
from lorax_spec.types import Method

_AUTO, _MIX = Method.AUTO.value, "mix"
_QUICK_KINDS = ("rename", "code", _MIX)
_PROMPTS, _TOKENS, _GROUPS = 24, 64, 12
#: Seconds for a place before it takes no further group, and how many times those for the mix.
_SECONDS, _QUICK_SECONDS, _MIX_TIMES = 16.0, 1.0, 3
#: Where the best single drafter may lead by so much.
_WITHIN = 0.97


@dataclass(frozen=True)
class Plan:
    """What is measured; without workloads, all and their mix."""

    subject: Subject = EMBEDDED
    batches: Sequence[int] = (1, 8)
    workloads: Sequence[str] = ()
    temperatures: Sequence[float] = (0.0, 0.8)


def measure(settings: Settings, plan: Plan | None = None) -> Report:
    """Raises InvalidArgument for a workload that there is not."""
    plan = plan or Plan()
    kinds = plan.workloads or (_QUICK_KINDS if settings.quick else (*KINDS, _MIX))
    check_kinds(kinds, (*KINDS, _MIX))
    rows: list[dict[str, Value]] = []
    checks: list[Check] = []
    with plan.subject.open() as opened:
        for temperature in plan.temperatures[: 1 if settings.quick else None]:
            behind, leads = 0, dict[int, float]()
            singles = [one for one in opened.drafters if one != _AUTO]
            for place, runs in _runs(opened, settings, kinds, plan.batches, temperature):
                by_off = {one: ratio(runs, one) for one in (*singles, _AUTO)}
                best = max(singles, key=lambda one: by_off[one].judged.value)
                lead = _lead(runs, best, by_off[_AUTO])
                if place.workload == _MIX:
                    leads[place.batch] = lead.value
                elif lead.value < _WITHIN - by_off[_AUTO].noise and lead.high < _WITHIN:
                    behind += 1
                rows.append(_row(place, temperature, by_off, best, lead))
            where = f"temperature {temperature:g}"
            checks.append(
                Check(f"workloads where auto is 3 % behind, {where}", behind, 0, at_most=True)
            )
            for batch, lead_of_mix in leads.items():
                what = f"auto by the best single drafter, mix, {batch} at a time, {where}"
                checks.append(Check(what, lead_of_mix, 1.0, "x"))
        dtype = opened.core.info.dtype
    return Report(
        f"speed by that without drafts: every drafter alone, and auto, {dtype}, one thread",
        rows,
        checks,
        [
            "Decoding only; sizes left to the controller.  Judged by processor time where the "
            "wall's null is wider than 3 %.  Null: how far from 1 off by itself goes; a "
            "workload counts as behind beyond it only."
        ],
    )


def _runs(
    opened: Opened,
    settings: Settings,
    kinds: Sequence[str],
    batches: Sequence[int],
    temperature: float,
) -> list[tuple[Place, Runs]]:
    sides = {one: opened.side(one, temperature=temperature) for one in (OFF, *opened.drafters)}
    sides[AGAIN] = sides[OFF]
    single = [kind for kind in kinds if kind != _MIX] or KINDS
    tasks = embedded_tasks(single, _PROMPTS, opened.tokenizer, _TOKENS, settings.seed)
    tasks = {kind: worth_timing(sides[OFF], prompts) for kind, prompts in tasks.items()}
    tasks[_MIX] = _in_turn(list(tasks.values()))
    most = settings.count(_GROUPS, 2)
    seconds = _QUICK_SECONDS if settings.quick else _SECONDS
    found: list[tuple[Place, Runs]] = []
    for mixed in (False, True):
        times = _MIX_TIMES if mixed else 1
        places = [
            Place(kind, batch, prompts, most * times)
            for kind, prompts in tasks.items()
            for batch in batches
            if kind in kinds and (kind == _MIX) is mixed
        ]
        runs = runs_by_place(opened.core, sides, places, times * seconds, settings.seed)
        found += settings.track(runs, len(places), f"auto, temperature {temperature:g}")
    return found


def _in_turn(groups: Sequence[Sequence[Prompt]]) -> list[Prompt]:
    """One of each, again and again."""
    longest = max(map(len, groups))
    return [group[i % len(group)] for i in range(longest) for group in groups]


def _lead(runs: Runs, best: str, judged: Ratio) -> Estimate:
    """Auto's speed by that of the best single drafter, by the clock that judges."""
    clock = "seconds" if judged.clock == "wall" else "cpu_seconds"
    return median_ratio(
        [getattr(run[best], clock) / run[best].tokens for run in runs],
        [getattr(run[_AUTO], clock) / run[_AUTO].tokens for run in runs],
    )


def _row(
    place: Place, temperature: float, by_off: dict[str, Ratio], best: str, lead: Estimate
) -> dict[str, Value]:
    auto = by_off[_AUTO]
    return {
        "workload": place.workload,
        "T": temperature,
        "batch": place.batch,
        **{name.removeprefix("prompt_"): one.judged.value for name, one in by_off.items()},
        "best single": best,
        "auto by it": lead,
        "null": auto.noise,
        "clock": auto.clock.value,
    }
