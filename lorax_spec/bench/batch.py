"""Sixteen requests at once against transformers answering them one by one."""

from __future__ import annotations

from lorax_spec.bench.comparison import speedup, versus
from lorax_spec.bench.engine_side import EngineSide
from lorax_spec.bench.pairs import Side, interleaved
from lorax_spec.bench.report import Check, Report
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.transformers_side import PaddedSide, TransformersSide, load_reference
from lorax_spec.bench.workload import Prompt
from lorax_spec.engine.engine import Engine

_KINDS = ("code", "prose", "tests", "rename", "edit", "write", "doc")
_AT_ONCE = 16
_OURS, _THEIRS, _NULL, _PADDED = "lorax-spec", "transformers", "transformers again", "padded"


def measure(settings: Settings) -> Report:
    with Engine(dtype="float32") as engine:
        model = load_reference(engine.info.model_path)
        groups = settings.count(6, 1)
        asked = settings.prompts(_KINDS, groups * _AT_ONCE, engine.tokenizer)
        sides: dict[str, Side[list[Prompt]]] = {
            _OURS: EngineSide(engine.core),
            _THEIRS: TransformersSide(model),
            _NULL: TransformersSide(model),
            _PADDED: PaddedSide(model),
        }
        inputs = [asked[first::groups] for first in range(groups)]
        pairs = interleaved(sides, inputs, settings.seed)
        runs = list(settings.track(pairs, groups, "16 at once"))
    differing = sum(
        a != b
        for run in runs
        for a, b in zip(run[_OURS].outputs, run[_THEIRS].outputs, strict=True)
    )
    return Report(
        "sixteen requests, float32, one thread, no speculation",
        [
            versus(runs, "16 at once", _OURS, _THEIRS),
            versus(runs, "noise: transformers twice", _NULL, _THEIRS),
            versus(runs, "transformers, padded batch", _PADDED, _THEIRS),
        ],
        [
            Check(
                "16 requests at once against transformers one by one",
                speedup(runs, _OURS, _THEIRS).value,
                4.0,
                "x",
            )
        ],
        [
            f"{differing} of {groups * _AT_ONCE} texts differ by a near-tie in rounding. "
            "Throughput counts each request's own tokens; a padded batch also computes the "
            "padding and waits for its longest answer."
        ],
    )
