"""Running benchmarks one after the other: progress, tables, one JSON, one summary."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lorax_spec.bench.report import Check, Report, add_to_json, summary
from lorax_spec.bench.settings import Settings

#: Cheap and noise-free ones first.
BENCHMARKS = (
    "acceptance",
    "lookup",
    "trees",
    "coupled",
    "merged",
    "drafters",
    "single",
    "batch",
    "wallclock",
    "auto",
    "never_slower",
    "coldload",
    "exchange",
    "memory",
    "http",
    "peers",
)


def run(
    names: Sequence[str],
    console: Console,
    *,
    quick: bool = False,
    samples: int | None = None,
    seed: int = 0,
    json: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Measure ``names``, show each as it comes, and last every target with what was found.

    ``options`` are arguments of their own for what is measured.
    """
    import torch
    from transformers.utils import logging

    from lorax_spec.bench.machine import circumstances

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    checks: list[Check] = []
    for name in names:
        before, started = circumstances(), perf_counter()
        with _progress(console, name) as progress:
            measure = import_module(f"lorax_spec.bench.{name}").measure
            report: Report = measure(Settings(progress, quick, samples, seed), **(options or {}))
        console.print(report.table())
        for note in report.notes:
            console.print(note, style="dim")
        checks += report.checks
        if json is not None:
            how = {
                "quick": quick,
                "prompts": samples,
                "seed": seed,
                "seconds": round(perf_counter() - started, 1),
                "load_average_after": os.getloadavg(),
            }
            add_to_json(json, name, report, before | how)
    if checks:
        console.print(summary(checks))


def _progress(console: Console, name: str) -> Progress:
    return Progress(
        TextColumn(f"[bold]{name}[/] {{task.description}}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
