"""A thousand adapters for 32 callers, and adapters that do not come, with others beside."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from lorax_spec import embedded
from lorax_spec.bench import crowd, troubles
from lorax_spec.bench.comparison import Runs, speedup, throughput, versus
from lorax_spec.bench.crowd import Served
from lorax_spec.bench.report import Check, Report, Value
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.slow_hub import SlowHub, the_hub_is
from lorax_spec.bench.statistics import Estimate, median_ratio
from lorax_spec.bench.troubles import Span
from lorax_spec.bench.zoo import PARENTS, make_zoo, size
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.engine import adapter_roots
from lorax_spec.text.tokenizer import TextTokenizer

_ADAPTERS, _QUICK_ADAPTERS = 1000, 48
#: Adapters on the device at a time; in host memory there is room for about as many again.
_ON_DEVICE, _QUICK_ON_DEVICE = 96, 32
#: Of one adapter in float32, from above.
_ADAPTER_BYTES = 460_000
#: So large that it does not come while anybody looks.
_CRAWLING, _BYTES_PER_SECOND = "medusa-v1", 50_000.0
#: Tokens of one request at most.
_CONTEXT = 1024
_BY_ONE, _BY_QUIET = 0.7, 1.2
#: MiB that tensors, and the process, may grow by once all adapters were used.
_GROWTH, _RESIDENT = 1.0, 64.0
_MIB = 2**20

Spans = Sequence[Mapping[str, Span]]


def measure(settings: Settings) -> Report:
    adapters, on_device = _ADAPTERS, _ON_DEVICE
    if settings.quick:
        adapters, on_device = _QUICK_ADAPTERS, _QUICK_ON_DEVICE
    hub = SlowHub(embedded.path() / "adapters" / _CRAWLING, _BYTES_PER_SECOND)
    with tempfile.TemporaryDirectory() as folder, hub.serving() as endpoint:
        root = Path(folder, "zoo")
        ids = make_zoo(root, adapters, settings.seed)
        disk = size(root)
        with the_hub_is(endpoint):
            core = EngineCore.load(_config(root, Path(folder, "cache"), on_device))
        try:
            tokenizer = TextTokenizer.load(core.info.model_path)
            served = crowd.serve(core, tokenizer, ids, settings)
            here = len(core.adapters.on_device())
            spans = troubles.trouble(core, tokenizer, ids, hub, settings)
            core.check_integrity()
            left = _left(core)
        finally:
            core.close()
    notes = [
        f"{adapters} adapters of {disk / 1e6:.0f} MB on disk, made of {' and '.join(PARENTS)}; "
        f"room for {on_device} on the device, where {here} lay at the end, and for as many in host "
        "memory. Bytes counted were bytes allocated.",
        *_told(served, spans),
    ]
    title = f"the adapter exchange, {core.info.dtype}, one torch thread, no speculation"
    return Report(title, _rows(served, spans), _checks(adapters, served, left, spans), notes)


def _config(root: Path, cache: Path, on_device: int) -> EngineConfig:
    return EngineConfig(
        str(embedded.path() / "base"),
        dtype="float32",
        threads=1,
        max_total_tokens=_CONTEXT,
        max_batch_total_tokens=crowd.CALLERS * _CONTEXT,
        max_active_adapters=on_device,
        adapter_host_bytes=on_device * _ADAPTER_BYTES,
        adapter_roots=adapter_roots(root),
        adapter_sources=("local", "hub"),
        adapter_cache_dir=cache,
    )


def _left(core: EngineCore) -> int:
    """Requests and holds on adapters that nobody has given back."""
    running, waiting, _, _ = core.load_figures()
    return running + waiting + sum(info.in_use for info in core.adapters.list())


def _checks(adapters: int, served: Served, left: int, spans: Spans) -> list[Check]:
    by_one = speedup(served.runs, crowd.MANY, crowd.ONE).value
    grown = (served.after.tensors - served.before.tensors) / _MIB
    resident = (served.after.resident - served.before.resident) / _MIB
    in_trouble = _by_quiet(spans, troubles.TROUBLED).value
    return [
        Check(f"{adapters} adapters for {crowd.CALLERS} callers, by one", by_one, _BY_ONE, "x"),
        Check("requests that failed among them", len(served.errors), 0, at_most=True),
        Check("requests and leases left over", left, 0, at_most=True),
        Check("memory of all tensors grown meanwhile", grown, _GROWTH, " MiB", at_most=True),
        Check("resident memory grown meanwhile", resident, _RESIDENT, " MiB", at_most=True),
        Check(
            "p99 between tokens while one adapter crawls and one fails, by quiet",
            in_trouble,
            _BY_QUIET,
            "x",
            at_most=True,
        ),
    ]


def _rows(served: Served, spans: Spans) -> list[dict[str, Value]]:
    cold = [call for call in served.calls if call.cold]
    warm = [call for call in served.calls if not call.cold]
    return [
        _speed("by Zipf's law, by one adapter", served.runs, crowd.MANY),
        _speed("noise: one adapter twice", served.runs, crowd.NULL),
        _times("first token, adapter not on device", [call.first for call in cold]),
        _times("until that adapter was there", [call.loading for call in cold]),
        _times("first token, adapter on device", [call.first for call in warm]),
        _between("between tokens, in trouble by quiet", spans, troubles.TROUBLED),
        _between("noise: quiet twice", spans, troubles.NULL),
    ]


def _told(served: Served, spans: Spans) -> Iterator[str]:
    if served.errors:
        yield f"The first of the errors: {served.errors[0]}"
    yield (
        f"{served.asked} requests. Once all adapters were used, tensors took "
        f"{served.before.tensors / _MIB:.0f} MiB of {served.before.resident / _MIB:.0f} resident."
    )
    troubled = [group[troubles.TROUBLED] for group in spans]
    arrived = sum(span.arrived for span in troubled)
    quiet_ms = 1000 * median(group[troubles.QUIET].p99 for group in spans)
    yield (
        f"Trouble: {troubles.CALLERS} callers for {median(one.seconds for one in troubled):.1f} s "
        f"each time (quiet: a p99 of {quiet_ms:.1f} ms); the slow adapter had come by the end of "
        f"{arrived} of {len(troubled)}, and the failing one was refused and asked for again "
        f"{median(one.refused for one in troubled):.0f} times."
    )


def _speed(what: str, runs: Runs, side: str) -> dict[str, Value]:
    found = versus(runs, what, side, crowd.ONE)
    return _row(
        what, found["times as fast"], found["cpu time"], throughput(runs, side), [], len(runs)
    )


def _times(what: str, seconds: Sequence[float]) -> dict[str, Value]:
    return _row(what, None, None, None, seconds, len(seconds))


def _between(what: str, spans: Spans, side: str) -> dict[str, Value]:
    """The p50 and p99 of a side are medians over its spans."""
    mine = [group[side] for group in spans]
    cpu = median_ratio([one.cpu_p99 for one in mine], [g[troubles.QUIET].cpu_p99 for g in spans])
    row = _row(what, _by_quiet(spans, side), cpu.value, None, [], len(mine))
    p50, p99 = median(one.p50 for one in mine), median(one.p99 for one in mine)
    return row | {"p50 ms": 1000 * p50, "p99 ms": 1000 * p99}


def _row(
    what: str, ratio: Value, cpu: Value, speed: Value, seconds: Sequence[float], count: int
) -> dict[str, Value]:
    p50, p99 = (1000 * float(np.quantile(seconds, q)) if seconds else None for q in (0.5, 0.99))
    return {
        "what": what,
        "ratio": ratio,
        "by cpu": cpu,
        "tokens/s": speed,
        "p50 ms": p50,
        "p99 ms": p99,
        "n": count,
    }


def _by_quiet(spans: Spans, side: str) -> Estimate:
    return median_ratio(
        [group[side].p99 for group in spans], [group[troubles.QUIET].p99 for group in spans]
    )
