"""One table for people, one JSON for everything else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from lorax_spec.bench.gpu.figures import Figure, Finding

_NOTE = 40
DRY = "dry run, CPU: means nothing"


def table(findings: Sequence[Finding], dry: bool) -> Table:
    """A row for each figure, and one for each part that failed or was cut."""
    view = Table(
        title=f"gpu-check ({DRY})" if dry else "gpu-check", title_justify="left", box=SIMPLE_HEAD
    )
    view.add_column("part")
    view.add_column("figure", overflow="fold")
    for heading in ("target", "measured"):
        view.add_column(heading, justify="right", no_wrap=True)
    view.add_column("verdict")
    view.add_column("note", overflow="fold", max_width=_NOTE)
    for finding in findings:
        name = finding.part
        for figure in finding.figures:
            note = escape(figure.note.partition("\n")[0])
            view.add_row(name, figure.what, figure.goal, figure.found, verdict(figure, dry), note)
            name = ""
        if finding.error:
            view.add_row(name, escape(finding.error), "", "", "[bold red]failed[/]")
    return view


def verdict(figure: Figure, dry: bool) -> str:
    if figure.met is None:
        return "-"
    if dry:
        return "dry"
    return "[green]met[/]" if figure.met else "[bold red]MISSED[/]"


def as_json(
    findings: Sequence[Finding], facts: Mapping[str, Any], settings: Mapping[str, Any]
) -> str:
    """``cause`` of a figure is for a person to fill in."""
    dry = bool(settings.get("dry_run"))
    parts = [
        asdict(finding)
        | {"figures": [_figure(figure, dry) for figure in finding.figures]}
        | {"share": round(finding.share, 1), "seconds": round(finding.seconds, 1)}
        for finding in findings
    ]
    everything = {
        "measured_on": DRY if dry else "GPU",
        "settings": settings,
        "facts": facts,
        "parts": parts,
    }
    plain = json.loads(json.dumps(everything, default=_plain), parse_constant=lambda _: None)
    return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"


def save(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _figure(figure: Figure, dry: bool) -> dict[str, Any]:
    return asdict(figure) | {"value": figure.value, "met": None if dry else figure.met}


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)
