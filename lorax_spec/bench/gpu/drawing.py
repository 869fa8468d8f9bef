"""Plots of a run, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorax_spec.bench.cells import Cell
from lorax_spec.bench.gpu.figures import Figure, Finding
from lorax_spec.bench.report import Value


def draw(folder: Path, findings: Sequence[Finding], title: str) -> str:
    """Figures by their targets, and speculation by batch size; returns what was written."""
    try:
        from lorax_spec.bench import plots
    except ModuleNotFoundError as missing:
        return f"No plots without {missing.name}."
    drawn = {}
    promised = [f for finding in findings for f in finding.figures if f.target]
    if promised:
        drawn["targets"] = plots.targets([(_label(f), _reached(f)) for f in promised], title)
    cells: list[Cell] = [cell for finding in findings for cell in finding.more.get("cells", [])]
    if cells:
        drawn["speculation"] = plots.ratios(cells, title)
    rows = [_row(finding.part, figure) for finding in findings for figure in finding.figures]
    written = plots.write(folder, "gpu-check", drawn, rows, title)
    return f"Written: {', '.join(map(str, written))}."


def _label(figure: Figure) -> str:
    return f"{figure.what} ({figure.goal})"


def _reached(figure: Figure) -> float:
    """Above 1 where the target is met, whichever way it goes."""
    assert figure.target
    if figure.at_most:
        return figure.target / figure.value if figure.value > 0 else 2.0
    return figure.value / figure.target


def _row(part: str, figure: Figure) -> dict[str, Value]:
    return {
        "figure": figure.what,
        "part": part,
        "target": figure.goal,
        "measured": figure.found,
        "note": figure.note,
    }
