"""What eight decoding requests notice while a cold adapter is loaded beside them.

Each load has its own copy of an adapter folder, so that none was ever seen before.  The median
inter-token time of the tokens from a load's beginning on stands against that of the quiet steps
right before and after; windows in which nothing is loaded show the noise.  A load is over after a
step or two: those steps alone are shown too.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from lorax_spec import embedded
from lorax_spec.bench.engine_side import EngineSide
from lorax_spec.bench.report import Check, Report, Value
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.statistics import Estimate, median_ratio
from lorax_spec.bench.streams import Streams, Window
from lorax_spec.bench.workload import Prompt, prompts
from lorax_spec.engine.engine import Engine
from lorax_spec.engine.request import Emitted, Failed, Finished
from lorax_spec.types import AdapterRef

_ADAPTER = "tests-medusa"
_STREAMS = 8
_NINTH_TOKENS = 16
#: Tokens of each stream whose median is judged, from a load's beginning on.
_WINDOW = 16
_ALLOWED_RISE = 10.0  # percent


@dataclass(frozen=True)
class Ninth:
    """Inter-token times of the eight while a ninth request waits for its adapter, while its
    prompt is computed, and while it decodes beside them."""

    waiting: Window
    prompt: Window
    decoding: Window


def measure(settings: Settings) -> Report:
    loads = settings.count(40, 8)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as beside:
        ids = _copies(Path(folder), 2 * loads + 1)
        with Engine(dtype="float32", adapter_root=folder) as engine:
            streams = Streams(engine.core, prompts(("code",), _STREAMS, engine.tokenizer))
            streams.watch(_Load(streams, ids.pop(), beside))
            alone, overlap, shams, ninth = [], [], [], []
            for adapter_id in settings.track(ids[:loads], loads, "loads"):
                load = _Load(streams, adapter_id, beside)
                alone.append(streams.watch(load))
                overlap.append(Window(alone[-1].within[: load.steps], alone[-1].quiet))
                shams.append(streams.watch(partial(_idle, streams, len(alone[-1].within))))
            question = prompts(("tests",), 1, engine.tokenizer)[0]
            for adapter_id in settings.track(ids[loads:], loads, "a ninth request"):
                ninth.append(_ninth(streams, adapter_id, question))
    return _report(alone, overlap, shams, ninth)


def _copies(root: Path, count: int) -> list[str]:
    ids = [f"cold-{number}" for number in range(count)]
    for adapter_id in ids:
        shutil.copytree(embedded.path() / "adapters" / _ADAPTER, root / adapter_id)
    return ids


class _Load:
    """Loads an adapter with no request that waits for it; ``steps`` is how many it overlapped."""

    def __init__(self, streams: Streams, adapter_id: str, beside: Executor) -> None:
        self._streams = streams
        self._adapter = AdapterRef(adapter_id)
        self._beside = beside
        self.steps = 0

    def __call__(self) -> list[float]:
        loading = self._beside.submit(self._streams.core.adapters.load, self._adapter)
        times = [self._streams.step()[0]]
        while not loading.done():
            times.append(self._streams.step()[0])
        loading.result()
        self.steps = len(times)
        return times + _idle(self._streams, _WINDOW - len(times))


def _idle(streams: Streams, steps: int) -> list[float]:
    return [streams.step()[0] for _ in range(steps)]


def _ninth(streams: Streams, adapter_id: str, question: Prompt) -> Ninth:
    times: list[float] = []
    first = 0

    def ask() -> list[float]:
        nonlocal first
        side = EngineSide(streams.core, adapter=adapter_id)
        asked = Prompt(question.kind, question.ids, _NINTH_TOKENS)
        (request,) = side.requests([asked])
        streams.core.submit(request)
        while True:
            seconds, events = streams.step()
            times.append(seconds)
            for event in events:
                if event.request_id != request.request_id:
                    continue
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Emitted) and not first:
                    first = len(times)
                if isinstance(event, Finished):
                    return times

    quiet = streams.watch(ask).quiet
    return Ninth(
        Window(times[: first - 1], quiet),
        Window(times[first - 1 : first], quiet),
        Window(times[first:], quiet),
    )


def _report(
    alone: list[Window], overlap: list[Window], shams: list[Window], ninth: list[Ninth]
) -> Report:
    waiting = [one.waiting for one in ninth if one.waiting.within]
    rows = [
        _row("nothing (noise)", shams),
        _row("a cold load alone", alone),
        _row("the steps it overlaps", overlap),
        _row("a ninth waits for its adapter", waiting),
        _row("its prompt is computed", [one.prompt for one in ninth]),
        _row("it decodes beside them", [one.decoding for one in ninth]),
    ]
    check = Check(
        "rise of 8 streams' median inter-token time by a cold load beside them",
        _percent(alone),
        _ALLOWED_RISE,
        " %",
        at_most=True,
    )
    return Report(
        f"{_STREAMS} streams while an adapter is loaded ({_ADAPTER}, float32, one torch thread)",
        rows,
        [check],
        [
            "Each window's median inter-token time by that of the quiet steps around it; the "
            "ninth request's own prompt and row are work, not loading, and stand apart."
        ],
    )


def _row(meanwhile: str, windows: Sequence[Window]) -> dict[str, Value]:
    within = [seconds for window in windows for seconds in window.within]
    return {
        "meanwhile": meanwhile,
        "by quiet": _rise(windows),
        "median ms": 1000 * median(within) if within else None,
        "quiet ms": 1000 * median(s for w in windows for s in w.quiet) if windows else None,
        "worst ms": 1000 * max(within) if within else None,
        "extra ms": _extra(windows),
        "steps": len(within) / max(1, len(windows)),
        "windows": len(windows),
    }


def _rise(windows: Sequence[Window]) -> Estimate:
    return median_ratio(
        [median(window.within) for window in windows], [median(w.quiet) for w in windows]
    )


def _extra(windows: Sequence[Window]) -> float:
    """Milliseconds by which a window was longer than its steps are in quiet times, on average."""
    extra = [sum(w.within) - len(w.within) * median(w.quiet) for w in windows]
    return 1000 * sum(extra) / max(1, len(extra))


def _percent(windows: Sequence[Window]) -> float:
    return 100 * (_rise(windows).value - 1)
