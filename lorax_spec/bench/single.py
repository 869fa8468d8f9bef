"""One request at a time against transformers' ``generate``, same weights, same tokens."""

from __future__ import annotations

from lorax_spec.bench.comparison import speedup, throughput, versus
from lorax_spec.bench.engine_side import EngineSide
from lorax_spec.bench.pairs import Side, comparable, interleaved
from lorax_spec.bench.report import Check, Report
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.transformers_side import TransformersSide, load_reference
from lorax_spec.bench.workload import Prompt, worth_counting
from lorax_spec.engine.engine import Engine
from lorax_spec.types import Method

_KINDS = ("code", "prose", "tests", "rename", "edit", "write", "doc")
_LENGTHS = (3, 5, 8, 10)
_OURS, _THEIRS, _NULL = "lorax-spec", "transformers", "transformers again"


def measure(settings: Settings) -> Report:
    with Engine(dtype="float32") as engine:
        ours = EngineSide(engine.core)
        theirs = TransformersSide(load_reference(engine.info.model_path))
        asked = settings.prompts(_KINDS, settings.count(28, 7), engine.tokenizer)
        sides: dict[str, Side[list[Prompt]]] = {_OURS: ours, _THEIRS: theirs, _NULL: theirs}
        pairs = interleaved(sides, [[prompt] for prompt in asked], settings.seed)
        plain, plain_differing = comparable(settings.track(pairs, len(asked), "no speculation"))

        asked, looping = _not_looping(
            ours, settings.prompts(("rename", "edit"), settings.count(24, 6), engine.tokenizer)
        )
        lookups: dict[str, Side[list[Prompt]]] = {}
        for length in _LENGTHS:
            lookups[_at(_OURS, length)] = ours.speculating(Method.PROMPT_LOOKUP, length)
            lookups[_at(_THEIRS, length)] = TransformersSide(theirs.model, length)
        pairs = interleaved(lookups, [[prompt] for prompt in asked], settings.seed)
        drafted, differing = comparable(settings.track(pairs, len(asked), "prompt lookup"))
    best = max(_LENGTHS, key=lambda length: throughput(drafted, _at(_THEIRS, length)))
    return Report(
        "one request at a time, float32, one thread",
        [
            versus(plain, "no speculation", _OURS, _THEIRS),
            versus(plain, "noise: transformers twice", _NULL, _THEIRS),
            *(
                versus(drafted, f"prompt lookup {k}", _at(_OURS, k), _at(_THEIRS, k))
                for k in _LENGTHS
            ),
        ],
        [
            Check(
                "one request against transformers, no speculation",
                speedup(plain, _OURS, _THEIRS).value,
                1.3,
                "x",
            ),
            Check(
                f"prompt lookup against transformers' own, {best} tokens, rename and edit",
                speedup(drafted, _at(_OURS, best), _at(_THEIRS, best)).value,
                1.5,
                "x",
            ),
        ],
        [
            f"Prompt lookup is judged at {best} tokens, where transformers is fastest.",
            f"Left out: {plain_differing} and {differing} prompts where a near-tie in rounding "
            f"made the texts differ; of the lookup prompts {looping} with looping answers.",
        ],
    )


def _at(side: str, length: int) -> str:
    return f"{side}, lookup {length}"


def _not_looping(side: EngineSide, asked: list[Prompt]) -> tuple[list[Prompt], int]:
    """The prompts whose greedy answers are worth counting, and how many others there are."""
    answers = side(asked).outputs
    good = [p for p, tokens in zip(asked, answers, strict=True) if worth_counting(tokens)]
    return good, len(asked) - len(good)
