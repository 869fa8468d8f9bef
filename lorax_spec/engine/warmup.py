"""The first passes, before any request: they record programs and measure what rows cost."""

from __future__ import annotations

import time
from collections.abc import Sequence as Rows

import torch
from rich.console import Console
from rich.progress import track

from lorax_spec.adapters.lease import Lease
from lorax_spec.engine.blocks import NULL_BLOCK, blocks_for
from lorax_spec.engine.clock import clock_of
from lorax_spec.engine.model import LanguageModel
from lorax_spec.engine.recorded import RECORDED_ROWS
from lorax_spec.engine.request import TokenRequest
from lorax_spec.engine.sampling import SamplingRule
from lorax_spec.engine.scheduler import Scheduled
from lorax_spec.engine.sequence import Sequence
from lorax_spec.speculation.cost import StepCost
from lorax_spec.speculation.tree import MAX_NODES, chain
from lorax_spec.types import Parameters

#: Rows of one sequence that are timed: these always, the others as far as patience goes.
_ALWAYS = (1, 8, MAX_NODES)
_FURTHER = (
    4,
    2,
    16,
    RECORDED_ROWS + 1,
    32,
    256,
    128,
    24,
    20,
    12,
    6,
    3,
    *range(5, 16),
    48,
    *range(17, RECORDED_ROWS),
)
#: Each count runs so often; the quickest run counts, since others were disturbed.
_REPEATS = 4
#: No further count is timed once all took so long, in seconds.
_PATIENCE = 1.5
#: Shares of a one-row step that a path, and a path over 256 tokens, cost at most: what seems more
#: is noise, for the two are found as differences.
_DEAREST_PATH, _DEAREST_KEYS = 0.05, 0.1
#: Tokens before the timed rows, and what the same is timed with to see what a token costs.
_CONTEXT, _LONG_CONTEXT = 32, 256
#: Sequences of one row each that are timed to see what a path costs.
_PATHS = 8
#: Batches whose graphs are captured beforehand: sequences, and nodes of a draft each.
_USUAL_SEQUENCES, _USUAL_NODES = (1, 2, 4, 8, 16, 32, 64), (0, 1, 3, 7)


def warm_up(model: LanguageModel, lease: Lease) -> StepCost:
    """What a step costs by its rows, and their programs recorded.

    Rows of nothing run in the null block, which is nobody's.  ``lease`` is one of no adapters.
    """

    def timed(sequences: int, nodes: int, context: int) -> float:
        plan = rehearsal(lease, sequences, nodes, context)
        return forward_seconds(model, plan)

    began = time.perf_counter()
    measured: dict[int, float] = {}
    for rows in dict.fromkeys((*_ALWAYS, *_FURTHER)):
        if rows not in _ALWAYS and time.perf_counter() - began > _PATIENCE:
            break
        sequences = -(-rows // MAX_NODES)
        measured[rows] = timed(sequences, rows // sequences - 1, _CONTEXT)
    apart = timed(_PATHS, 0, _CONTEXT)
    apart_and_long = timed(_PATHS, 0, _LONG_CONTEXT)
    key = (apart_and_long - apart) / (_PATHS * (_LONG_CONTEXT - _CONTEXT))
    key = _between(key, _DEAREST_KEYS * measured[1] / 256)
    path = (apart - measured[_PATHS]) / (_PATHS - 1) - key * _CONTEXT
    path = _between(path, _DEAREST_PATH * measured[1])
    return StepCost(_rising(measured), path, key, _CONTEXT)


def capture_usual(model: LanguageModel, lease: Lease) -> None:
    """Prepare the passes of usual batches, on a GPU their graphs, before a request waits for one.

    What is not among them is prepared when it first comes.
    """
    plans = [
        rehearsal(lease, sequences, nodes, _CONTEXT)
        for sequences in _USUAL_SEQUENCES
        for nodes in _USUAL_NODES
    ]
    console = Console(stderr=True)
    for plan in track(plans, "capturing", console=console, disable=not console.is_terminal):
        model.forward(model.lay_out(plan))


def _between(seconds: float, most: float) -> float:
    return min(max(0.0, seconds), most)


def forward_seconds(model: LanguageModel, plan: Rows[Scheduled]) -> float:
    """The quickest of several forwards of ``plan``."""
    clock, times = clock_of(model.device), list[float]()
    # A GPU's first pass compiles; what takes so long that noise is little is not repeated for it.
    fewest = 1 if model.device.type == "cpu" else 2
    while len(times) < fewest or (len(times) < _REPEATS and sum(times) < _PATIENCE):
        began = clock()
        model.forward(model.lay_out(plan))
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        times.append(clock() - began)
    return min(times)


def rehearsal(lease: Lease, sequences: int, nodes: int, context: int) -> list[Scheduled]:
    """Sequences of nothing after ``context`` tokens, each with a chain of ``nodes`` to verify.

    ``lease`` is one of no adapters.  Keys are those of the null block, again and again.
    """
    sequence = Sequence(
        request=TokenRequest(0, (0,), Parameters()),
        lease=lease,
        rule=SamplingRule(),
        tokens=[0] * context,
        limit=context + nodes + 1,
        blocks=[NULL_BLOCK] * blocks_for(context + nodes + 1),
    )
    return [Scheduled(sequence, context - 1, 1, chain([0] * nodes, "warm-up"))] * sequences


def _rising(measured: dict[int, float]) -> dict[int, float]:
    """Without dips: more rows never take less time, so a dip is noise."""
    rising, least = {}, float("inf")
    for rows in sorted(measured, reverse=True):
        least = min(least, measured[rows])
        rising[rows] = least
    return rising
