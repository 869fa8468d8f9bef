"""HTTP beside gRPC: between tokens, in the router's processor time, and with five hundred streams.

Between tokens the embedded model answers, and every way takes its turn at the same prompts.  What a
router can carry, and what a crowd notices, is measured before a worker that costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

import numpy as np

from lorax_spec import embedded
from lorax_spec.bench.http_callers import WAYS, Ask
from lorax_spec.bench.http_measuring import Crowd, calling
from lorax_spec.bench.http_servers import embedded_model, stub
from lorax_spec.bench.pairs import Run, comparable, interleaved
from lorax_spec.bench.report import Check, Report, Value
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.statistics import Estimate, median_ratio

GRPC, HTTP = "gRPC", "HTTP"
_NULL = "gRPC again"
_SIDES = {name: name for name in WAYS} | {_NULL: GRPC}
_TOKENS, _QUICK_TOKENS = 128, 48
_AT_ONCE = (1, 8)
#: Streams of the busy router, their tokens, and seconds between two of them: 6,400 tokens/s.
_STREAMS, _LENGTH, _PACE = 64, 200, 0.01
#: The same of the crowd: 2,500 tokens/s.
_CROWD, _CROWD_LENGTH, _CROWD_PACE = 500, 20, 0.2
_MIB = 2**20

Row = dict[str, Value]
#: By way.
Figures = Mapping[str, Sequence[float]]


def measure(settings: Settings) -> Report:
    """Raises Unavailable where a server does not start, ConnectionError or AioRpcError where one
    does not answer."""
    rows, checks, left_out = _between_tokens(settings)
    for pace, label in ((_PACE, "paced"), (0.0, "at full speed")):
        crowds = _crowds(settings, pace, _STREAMS, _LENGTH, settings.count(3, 1))
        speeds = {name: [one.tokens / one.cpu_seconds for one in crowds[name]] for name in WAYS}
        rows.append(_row(f"{_STREAMS} streams, {label}: /s a core", speeds))
        walls = {name: [one.tokens / one.seconds for one in crowds[name]] for name in WAYS}
        rows.append(_row("the same by the wall's clock", walls))
        if pace:
            promise = f"{HTTP} to {_STREAMS} streams, tokens/s per core of the router"
            checks.append(Check(promise, median(speeds[HTTP]), 5000.0, "/s"))
    crowds = _crowds(settings, _CROWD_PACE, _CROWD, _CROWD_LENGTH, settings.count(3, 1))
    first = {
        name: [1e3 * (one.first - one.asked) for crowd in crowds[name] for one in crowd.heard]
        for name in WAYS
    }
    for share in (50, 99):
        figures = {name: [float(np.percentile(first[name], share))] for name in WAYS}
        rows.append(_row(f"{_CROWD} streams: first token p{share}, ms", figures))
    peaks = {name: [crowd.peak / _MIB for crowd in crowds[name]] for name in WAYS}
    rows.append(_row("the router's memory at most, MiB", peaks, max))
    complete = {name: [crowd.complete for crowd in crowds[name]] for name in WAYS}
    rows.append(_row("complete, the fewest", complete, min))
    promise = f"of {_CROWD} streams at once, complete, the fewest of any way"
    checks.append(Check(promise, min(map(min, complete.values())), _CROWD))
    return Report("the same answers over HTTP and gRPC", rows, checks, _notes(left_out))


def _between_tokens(settings: Settings) -> tuple[list[Row], list[Check], int]:
    rows, checks, left_out = [], [], 0
    tokens = _QUICK_TOKENS if settings.quick else _TOKENS
    with embedded_model() as server, calling(server) as callers:
        sides = {side: callers.side(name) for side, name in _SIDES.items()}
        for at_once in _AT_ONCE:
            count = settings.count(24 if at_once == 1 else 12, 3)
            asked = _prompts(count, at_once, tokens)
            pairs = interleaved(sides, asked, settings.seed)
            runs = list(settings.track(pairs, count, f"{at_once} at once"))
            left_out += comparable(_telling(runs))[1]
            streams = "one stream" if at_once == 1 else f"{at_once} streams"
            times: dict[str, Value] = {
                name: 1e3 * median(_gap(run[name], tokens) for run in runs) for name in WAYS
            }
            rows.append({"measured": f"{streams}: ms between tokens", **times})
            ratios = {name: _ratio(runs, name) for name in (_NULL, *WAYS)}
            by_way = {name: ratios[_NULL if name == GRPC else name] for name in WAYS}
            rows.append({"measured": "the same by gRPC", **by_way})
            promise = f"{HTTP} by gRPC, time between tokens, {streams}"
            checks.append(Check(promise, ratios[HTTP].value, 1.10, "x", at_most=True))
    return rows, checks, left_out


def _crowds(
    settings: Settings, pace: float, streams: int, length: int, rounds: int
) -> Mapping[str, list[Crowd]]:
    """Every way in turn, ``rounds`` times, after a smaller crowd that is thrown away."""
    crowds: dict[str, list[Crowd]] = {name: [] for name in WAYS}
    asks = [Ask(f"class Number{index}:\n", length) for index in range(streams)]
    with stub(pace) as server, calling(server) as callers:
        for name in WAYS:
            callers.crowd(name, asks[:8])
        order = [name for _ in range(rounds) for name in WAYS]
        for name in settings.track(order, len(order), f"{streams} streams"):
            crowds[name].append(callers.crowd(name, asks))
    return crowds


def _prompts(count: int, at_once: int, tokens: int) -> list[list[Ask]]:
    """Groups of prompts, evenly spread over those of the bundle."""
    texts = [item["prompt"] for kind in ("code", "tests") for item in embedded.workloads()[kind]]
    chosen = [texts[n * len(texts) // (count * at_once)] for n in range(count * at_once)]
    return [[Ask(text, tokens) for text in chosen[n::count]] for n in range(count)]


def _telling(runs: Iterable[dict[str, Run]]) -> list[dict[str, Run]]:
    """Without the ways that do not tell token ids."""
    return [{name: run[name] for name in (GRPC, HTTP, _NULL)} for run in runs]


def _gap(run: Run, tokens: int) -> float:
    """Seconds; ``tokens`` of each answer."""
    return run.seconds / (run.rounds * len(run.outputs) * (tokens - 1))


def _ratio(runs: Sequence[dict[str, Run]], name: str) -> Estimate:
    return median_ratio([run[name].seconds for run in runs], [run[GRPC].seconds for run in runs])


def _row(label: str, figures: Figures, of: Callable[[Sequence[float]], float] = median) -> Row:
    return {"measured": label, **{name: float(of(figures[name])) for name in WAYS}}


def _notes(left_out: int) -> list[str]:
    notes = [
        "HTTP is /generate_stream; the last two are OpenAI's. Under gRPC: by itself. All ways get"
        " the same prompts, greedily; chat's are longer by the template.",
        "/s a core: tokens by the router's processor time; paced: 6,400 tokens/s are offered one by"
        " one, at full speed the router finds several of a stream together. The wall's clock has"
        " the stub and the callers beside the router.",
        f"The {_CROWD} connect in the same moment, so first tokens wait for those before them.",
    ]
    if left_out:
        notes.append(f"{left_out} groups of answers were not the same over HTTP and gRPC.")
    return notes
