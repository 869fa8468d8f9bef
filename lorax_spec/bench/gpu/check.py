"""The whole of ``gpu-check``: parts, table, JSON, plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lorax_spec.bench.gpu import page
from lorax_spec.bench.gpu.drawing import draw
from lorax_spec.bench.gpu.facts import facts, lines
from lorax_spec.bench.gpu.figures import Finding
from lorax_spec.bench.gpu.packages import missing
from lorax_spec.bench.gpu.parts import PARTS, Part
from lorax_spec.bench.gpu.sizes import Target
from lorax_spec.bench.gpu.worker import Setting, run_all
from lorax_spec.bench.widening.shape import Variant

#: Kept back for the table and the files.
_LAST_SECONDS = 15.0
#: Columns of the table in the file.
_PAGE = 180


@dataclass(frozen=True)
class Wanted:
    """``minutes`` are those of all parts together."""

    output: Path
    target: Target
    variant: Variant
    minutes: float
    dry_run: bool
    seed: int = 0


def check(wanted: Wanted, console: Console, parts: Sequence[Part] = PARTS) -> list[Finding]:
    """Measure, show, and write ``gpu-check.json``, ``gpu-check.txt`` and plots to the folder.

    What was found so far is in the JSON after every part.
    """
    known = facts() | {"missing": [str(package) for package in missing()]}
    settings = {
        "shape": str(wanted.target.shape),
        "target": wanted.target.value,
        "variant": wanted.variant.value,
        "minutes": wanted.minutes,
        "dry_run": wanted.dry_run,
        "seed": wanted.seed,
    }
    for line in (*lines(known), *known["missing"]):
        console.print(line, style="dim")
    findings: list[Finding] = []
    setting = Setting(wanted.target, wanted.variant, wanted.dry_run, wanted.seed, wanted.output)
    seconds = 60 * wanted.minutes - _LAST_SECONDS
    for finding in run_all(parts, setting, seconds, lambda part: _say(console, part)):
        findings.append(finding)
        said = f"    {finding.seconds:.0f} s of {finding.share:.0f}"
        console.print(f"{said}{', ' if finding.error else ''}{finding.error}", markup=False)
        text = page.as_json(findings, known, settings)
        page.save(wanted.output / "gpu-check.json", text)
    title = f"gpu-check, {wanted.target} shape" + (f" ({page.DRY})" if wanted.dry_run else "")
    console.print(draw(wanted.output, findings, title), style="dim")
    view = page.table(findings, wanted.dry_run)
    with (wanted.output / "gpu-check.txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=_PAGE).print(view)
    console.print(view)
    return findings


def _say(console: Console, part: Part) -> None:
    console.print(f"--> {part.name}", style="bold")
