"""Tables for people, one JSON for everything else."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from lorax_spec.bench.report import Check, Report, add_to_json, summary
from lorax_spec.bench.statistics import Estimate


def report(title: str) -> Report:
    row = {"side": "ours", "ratio": Estimate(1.5, 1.4, 1.6, 9), "tokens/s": 321.7, "other": None}
    return Report(title, [row], [Check("as fast", 1.5, 1.3, "x")], ["a note"])


@pytest.mark.parametrize(
    ("measured", "at_most", "met"),
    [(1.3, False, True), (1.29, False, False), (1.3, True, True), (1.31, True, False)],
)
def test_a_target_is_met_at_the_target(measured: float, at_most: bool, met: bool) -> None:
    assert Check("promise", measured, 1.3, at_most=at_most).met is met


def test_nothing_measured_meets_no_target() -> None:
    for at_most in (False, True):
        assert not Check("promise", float("nan"), 1.0, at_most=at_most).met


def test_benchmarks_are_added_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "figures.json"
    add_to_json(path, "single", report("old"), {"seed": 1})
    add_to_json(path, "batch", report("batch"), {"seed": 1})
    add_to_json(path, "single", report("new"), {"seed": 2})
    everything = json.loads(path.read_text())
    assert set(everything) == {"single", "batch"}
    single = everything["single"]
    assert single["title"] == "new"
    assert single["circumstances"] == {"seed": 2}
    assert single["rows"][0]["ratio"] == {"value": 1.5, "low": 1.4, "high": 1.6, "samples": 9}
    assert single["checks"][0]["met"] is True


def test_tables_show_figures_targets_and_misses() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report("a title").table())
    console.print(summary([Check("as fast", 1.2, 1.3, "x"), Check("small", 5, 9, at_most=True)]))
    text = console.export_text()
    for shown in ("a title", "1.50 (1.40-1.60)", "322", "≥ 1.3x", "NO", "≤ 9", "yes"):
        assert shown in text
