"""Saving plots where matplotlib is installed, and saying so where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorax_spec.bench.cells import Cell


def save(
    folder: Path,
    name: str,
    cells: Sequence[Cell],
    title: str,
    notes: Sequence[str] = (),
) -> str:
    """Plots and a page of cells; returns what was done."""
    try:
        from lorax_spec.bench import plots
    except ModuleNotFoundError as missing:
        return f"No plots without {missing.name}: pip install 'lorax-spec[bench]'."
    figures = {
        "ratios": plots.ratios(cells, title),
        "tokens": plots.tokens(cells, "tokens per forward pass"),
    }
    written = plots.write(folder, name, figures, [one.row() for one in cells], title, notes)
    return f"Written: {', '.join(map(str, written))}."
