"""Plots of cells: PNG for a page, and one HTML file that holds plots and table and needs nothing
else.  Wants the ``bench`` extra (matplotlib)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lorax_spec.bench.cells import Cell
from lorax_spec.bench.judging import FLOOR
from lorax_spec.bench.report import Value, shown

_ACROSS = 3
#: Distinct in print and for the colour-blind (Okabe and Ito 2008), then again with dashes.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999")
#: Bars are no longer, by their targets.
_LONGEST = 2.0
_STEPS = (0.25, 0.5, 0.7, 0.8, 0.9, 1, 1.2, 1.5, 2, 3, 4, 6, 8)
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }}
td, th {{ padding: .2em .7em; text-align: right; border-bottom: 1px solid #ddd }}
td:first-child, th:first-child {{ text-align: left }}
svg {{ max-width: 100%; height: auto }}
</style>
<h1>{title}</h1>
{plots}
{notes}
<table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table>
</html>
"""


def ratios(cells: Sequence[Cell], title: str) -> Figure:
    """Speed by off against batch size: a panel a drafter, a line a workload and temperature, the
    null shaded, a line at the floor."""
    drafters = list(dict.fromkeys(cell.drafter for cell in cells))
    across = min(_ACROSS, len(drafters))
    down = -(-len(drafters) // across)
    figure = Figure(figsize=(1.5 + 4.5 * across, 1.0 + 3.8 * down), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes in panels.flat[len(drafters) :]:
        axes.set_axis_off()
    for axes, drafter in zip(panels.flat, drafters, strict=False):
        _panel(axes, [cell for cell in cells if cell.drafter == drafter], drafter)
    panels.flat[0].legend(fontsize=7, ncols=2)
    return figure


def _panel(axes: Axes, cells: Sequence[Cell], drafter: str) -> None:
    batches = sorted({cell.batch for cell in cells})
    noise = [median(c.ratio.noise for c in cells if c.batch == batch) for batch in batches]
    low, high = [1 - n for n in noise], [1 + n for n in noise]
    axes.fill_between(batches, low, high, color="#dddddd", label="off by itself")
    axes.axhline(FLOOR, color="#b00000", linewidth=0.8, linestyle=":", label=f"{FLOOR}")
    lines = list(dict.fromkeys((cell.workload, cell.temperature) for cell in cells))
    for index, (workload, temperature) in enumerate(lines):
        mine = [c for c in cells if (c.workload, c.temperature) == (workload, temperature)]
        mine.sort(key=lambda cell: cell.batch)
        axes.plot(
            [cell.batch for cell in mine],
            [cell.ratio.judged.value for cell in mine],
            color=_COLOURS[index % len(_COLOURS)],
            linestyle="-" if index < len(_COLOURS) else "--",
            marker="o",
            markersize=3,
            label=f"{workload}, T {temperature:g}",
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis, places in ((axes.xaxis, batches), (axes.yaxis, _steps(cells))):
        axis.set_ticks(list(places), [f"{place:g}" for place in places])
        axis.set_minor_locator(NullLocator())
    axes.set_title(drafter)
    axes.set_xlabel("requests at a time")
    axes.set_ylabel("speed by that without drafts")


def _steps(cells: Sequence[Cell]) -> list[float]:
    top = max([1.0, *(cell.ratio.judged.value for cell in cells)])
    low = min([1.0, *(cell.ratio.judged.value for cell in cells)])
    return [step for step in _STEPS if low * 0.9 <= step <= top * 1.2]


def tokens(cells: Sequence[Cell], title: str) -> Figure:
    """Tokens per forward pass at the smallest batch: a group a workload, a bar a drafter."""
    least = min(cell.batch for cell in cells)
    cells = [cell for cell in cells if cell.batch == least]
    groups = list(dict.fromkeys((cell.workload, cell.temperature) for cell in cells))
    drafters = list(dict.fromkeys(cell.drafter for cell in cells))
    figure = Figure(figsize=(2 + 1.1 * len(groups), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(drafters)
    for index, drafter in enumerate(drafters):
        found = {(c.workload, c.temperature): c for c in cells if c.drafter == drafter}
        places = [i for i, group in enumerate(groups) if group in found]
        axes.bar(
            [place - 0.4 + width * (index + 0.5) for place in places],
            [found[groups[place]].tokens_per_forward for place in places],
            width,
            color=_COLOURS[index % len(_COLOURS)],
            label=drafter,
        )
    axes.set_xticks(range(len(groups)), [f"{w}\nT {t:g}" for w, t in groups])
    axes.axhline(1, color="#000000", linewidth=0.8)
    axes.set_ylabel("tokens per forward pass")
    axes.set_title(title)
    axes.legend(fontsize=8)
    return figure


def targets(reached: Sequence[tuple[str, float]], title: str) -> Figure:
    """How far each promise was kept: a bar each, above 1 where it was."""
    figure = Figure(figsize=(11, 1.2 + 0.3 * len(reached)), layout="constrained")
    axes = figure.subplots()
    places = range(len(reached))
    colours = [_COLOURS[2] if share >= 1 else _COLOURS[5] for _, share in reached]
    axes.barh(places, [min(share, _LONGEST) for _, share in reached], color=colours)
    axes.set_yticks(places, [label for label, _ in reached], fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color="#000000", linewidth=0.8)
    axes.set_xlabel("share of the target that was reached")
    axes.set_title(title)
    return figure


def write(
    folder: Path,
    name: str,
    figures: Mapping[str, Figure],
    rows: Sequence[Mapping[str, Value]],
    title: str,
    notes: Sequence[str] = (),
) -> list[Path]:
    """``name``-<figure>.png each, and ``name``.html with all of them and the table.

    Returns what was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, plots = [], []
    for label, figure in figures.items():
        path = folder / f"{name}-{label}.png"
        figure.savefig(path, dpi=130)
        written.append(path)
        vector = io.StringIO()
        figure.savefig(vector, format="svg")
        plots.append(vector.getvalue()[vector.getvalue().index("<svg") :])
    page = folder / f"{name}.html"
    page.write_text(
        _PAGE.format(
            title=escape(title),
            plots="\n".join(plots),
            notes="\n".join(f"<p>{escape(note)}</p>" for note in notes),
            head="".join(f"<th>{escape(key)}</th>" for key in (rows[0] if rows else ())),
            body="\n".join(
                f"<tr>{''.join(f'<td>{escape(shown(v))}</td>' for v in row.values())}</tr>"
                for row in rows
            ),
        ),
        encoding="utf-8",
    )
    return [*written, page]
