"""Two sides of the same runs, as one row of a table."""

from __future__ import annotations

from collections.abc import Sequence

from lorax_spec.bench.pairs import Run
from lorax_spec.bench.report import Value
from lorax_spec.bench.statistics import Estimate, median_ratio

Runs = Sequence[dict[str, Run]]


def speedup(runs: Runs, ours: str, theirs: str) -> Estimate:
    """Median over the inputs of our tokens/s by theirs."""
    return median_ratio(
        [run[theirs].seconds / run[theirs].tokens for run in runs],
        [run[ours].seconds / run[ours].tokens for run in runs],
    )


def throughput(runs: Runs, side: str) -> float:
    """Tokens per second over all inputs together."""
    seconds = sum(run[side].seconds for run in runs)
    return sum(run[side].tokens for run in runs) / seconds if runs else float("nan")


def versus(runs: Runs, label: str, ours: str, theirs: str) -> dict[str, Value]:
    """The row ``label``: paired ratio, the same by processor time, and both sides' speeds."""
    cpu = median_ratio(
        [run[theirs].cpu_seconds / run[theirs].tokens for run in runs],
        [run[ours].cpu_seconds / run[ours].tokens for run in runs],
    )
    return {
        "compared": label,
        "times as fast": speedup(runs, ours, theirs),
        "cpu time": cpu.value,
        "tokens/s": throughput(runs, ours),
        "against": throughput(runs, theirs),
        "n": len(runs),
    }
