"""What a benchmark found: a table to read, figures to keep, targets met or missed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lorax_spec.bench.statistics import Estimate

Value = str | int | float | Estimate | None


@dataclass(frozen=True)
class Check:
    """A promise and what was measured of it; ``at_most`` where smaller is better."""

    promise: str
    measured: float
    target: float
    unit: str = ""
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.measured <= self.target if self.at_most else self.measured >= self.target


@dataclass(frozen=True)
class Report:
    """``rows`` all have the same keys, which are the table's columns."""

    title: str
    rows: Sequence[Mapping[str, Value]]
    checks: Sequence[Check] = ()
    notes: Sequence[str] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    def table(self) -> Table:
        view = Table(title=self.title, title_justify="left", box=SIMPLE_HEAD)
        for index, name in enumerate(self.rows[0] if self.rows else ()):
            view.add_column(name, justify="right" if index else "left", no_wrap=True)
        for row in self.rows:
            view.add_row(*map(shown, row.values()))
        return view


def summary(checks: Sequence[Check]) -> Table:
    """All promises of a run, target beside measurement."""
    view = Table(title="targets", title_justify="left", box=SIMPLE_HEAD)
    view.add_column("promise")
    for heading in ("target", "measured"):
        view.add_column(heading, justify="right")
    view.add_column("met")
    for check in checks:
        sign = "≤" if check.at_most else "≥"
        view.add_row(
            check.promise,
            f"{sign} {check.target:g}{check.unit}",
            f"{check.measured:.3g}{check.unit}",
            "[green]yes[/]" if check.met else "[bold red]NO[/]",
        )
    return view


def add_to_json(path: Path, name: str, report: Report, circumstances: Mapping[str, Any]) -> None:
    """Put one benchmark's report into a file of many, in the place of an earlier one."""
    everything = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    checks = [asdict(check) | {"met": check.met} for check in report.checks]
    everything[name] = asdict(report) | {"checks": checks, "circumstances": circumstances}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(everything, indent=1, default=_plain, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def shown(value: Value) -> str:
    """As tables have it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return str(value)


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{value!r} is not for JSON")
