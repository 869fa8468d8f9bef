"""What a user would run instead, in the same pairs: transformers, llama.cpp, OpenVINO GenAI.

The last two need a Python of their own (docs/benchmarks): name it in
``LORAX_SPEC_BENCH_LLAMA_PYTHON`` and ``LORAX_SPEC_BENCH_OPENVINO_PYTHON``; else ours is tried.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from lorax_spec.bench.comparison import Runs, speedup, throughput
from lorax_spec.bench.engine_side import EngineSide
from lorax_spec.bench.pairs import Side, interleaved
from lorax_spec.bench.peer_process import PeerProcess
from lorax_spec.bench.report import Report, Value
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.transformers_side import TransformersSide, load_reference
from lorax_spec.bench.workload import Prompt
from lorax_spec.engine.engine import Engine
from lorax_spec.errors import Unavailable
from lorax_spec.types import Method

_LOOKUP = 10
_BASELINE, _NULL = "transformers", "transformers again"


@dataclass(frozen=True)
class Peer:
    """An engine that needs its own Python: where to look for that, and the script to run."""

    name: str
    variable: str
    script: str

    def start(self, model: str, scratch: str, lookup: int, ends: list[int]) -> PeerProcess:
        python = os.environ.get(self.variable, sys.executable)
        script = Path(__file__).with_name(self.script)
        return PeerProcess(python, script, model, scratch, lookup, ends)


_PEERS = (
    Peer("llama.cpp", "LORAX_SPEC_BENCH_LLAMA_PYTHON", "peer_llama_cpp.py"),
    Peer("openvino-genai", "LORAX_SPEC_BENCH_OPENVINO_PYTHON", "peer_openvino.py"),
)


def measure(settings: Settings) -> Report:
    absent: dict[str, str] = {}
    with Engine(dtype="float32") as engine, ExitStack() as stack:
        folder = engine.info.model_path
        model = load_reference(folder)
        ours = EngineSide(engine.core)
        sides: dict[str, Side[list[Prompt]]] = {
            _BASELINE: TransformersSide(model),
            _NULL: TransformersSide(model),
            _with_lookup(_BASELINE): TransformersSide(model, _LOOKUP),
            "lorax-spec": ours,
            _with_lookup("lorax-spec"): ours.speculating(Method.PROMPT_LOOKUP, _LOOKUP),
        }
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        ends = sorted(engine.tokenizer.eos_token_ids)
        for peer in _PEERS:
            for name, lookup in ((peer.name, 0), (_with_lookup(peer.name), _LOOKUP)):
                try:
                    process = peer.start(folder, scratch, lookup, ends)
                except Unavailable as error:
                    absent[name] = error.message
                else:
                    sides[f"{name} ({process.version})"] = stack.enter_context(process)
        asked = settings.prompts(("rename", "edit"), settings.count(16, 4), engine.tokenizer)
        pairs = interleaved(sides, [[prompt] for prompt in asked], settings.seed)
        runs = list(settings.track(pairs, len(asked), "beside others"))
    return Report(
        "engines beside one another: one request, rename and edit, float32, one thread each",
        [*(_row(runs, name) for name in sides), *map(_absent, absent)],
        notes=[
            "Same answers: how many prompts got the tokens that transformers gave.",
            *(f"{name} did not start: {reason}" for name, reason in absent.items()),
        ],
    )


def _with_lookup(name: str) -> str:
    return f"{name}, lookup {_LOOKUP}"


def _row(runs: Runs, name: str) -> dict[str, Value]:
    same = sum(run[name].outputs == run[_BASELINE].outputs for run in runs)
    return {
        "engine": name,
        "by transformers": speedup(runs, name, _BASELINE),
        "tokens/s": throughput(runs, name),
        "same answers": f"{same} of {len(runs)}",
    }


def _absent(name: str) -> dict[str, Value]:
    return {
        "engine": name,
        "by transformers": "not installed",
        "tokens/s": None,
        "same answers": None,
    }
