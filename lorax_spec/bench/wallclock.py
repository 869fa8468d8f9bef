"""The engine with speculation against itself without, one request at a time."""

from __future__ import annotations

from lorax_spec.bench.comparison import Runs, speedup, throughput, versus
from lorax_spec.bench.engine_side import EngineSide
from lorax_spec.bench.pairs import comparable, interleaved
from lorax_spec.bench.report import Check, Report, Value
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.workload import worth_counting
from lorax_spec.engine.engine import Engine
from lorax_spec.types import Method, Speculation

_LENGTHS = (5, 8, 10)
_HEADS = "demo/medusa"
_OFF, _NULL = "off", "noise: off twice"
_TARGETS = {"float32": 2.0, "bfloat16": 3.0}


def measure(settings: Settings) -> Report:
    rows: list[dict[str, Value]] = []
    checks, notes = [], []
    for dtype, target in _TARGETS.items():
        runs, left_out, deterministic = _runs(dtype, settings)
        best = max(_LENGTHS, key=lambda length: throughput(runs, _lookup(length)))
        sides = (_NULL, *map(_lookup, _LENGTHS), "medusa chain 4", "medusa tree 8")
        rows += [{"dtype": dtype, **versus(runs, side, side, _OFF)} for side in sides]
        found = speedup(runs, _lookup(best), _OFF).value
        checks.append(
            Check(f"prompt lookup {best} on rename and edit, {dtype}, by off", found, target, "x")
        )
        exact = "deterministic" if deterministic else "not deterministic"
        notes.append(f"{dtype} ({exact}): {left_out}.")
    return Report("speculation on by off, rename and edit, one thread", rows, checks, notes)


def _runs(dtype: str, settings: Settings) -> tuple[Runs, str, bool]:
    """Comparable runs, what was left out, and whether the engine was deterministic."""
    with Engine(dtype=dtype) as engine:
        off = EngineSide(engine.core)
        heads = EngineSide(engine.core, Speculation(medusa_adapter_id=_HEADS))
        sides = {_OFF: off, _NULL: off}
        sides |= {_lookup(k): off.speculating(Method.PROMPT_LOOKUP, k) for k in _LENGTHS}
        sides["medusa chain 4"] = heads.speculating(Method.MEDUSA, 4)
        sides["medusa tree 8"] = heads.speculating(Method.MEDUSA, 8)
        asked = settings.prompts(("rename", "edit"), settings.count(24, 6), engine.tokenizer)
        pairs = interleaved(sides, [[prompt] for prompt in asked], settings.seed)
        runs, differing = comparable(settings.track(pairs, len(asked), f"on by off, {dtype}"))
        good = [run for run in runs if worth_counting(run[_OFF].outputs[0])]
        left_out = (
            f"left out {len(runs) - len(good)} looping answers and {differing} where a near-tie "
            "in rounding made the texts differ"
        )
        return good, left_out, engine.info.deterministic


def _lookup(length: int) -> str:
    return f"lookup {length}"
