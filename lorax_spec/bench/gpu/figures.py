"""What a part found, beside what was to be reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lorax_spec.bench.report import shown
from lorax_spec.bench.statistics import Estimate


@dataclass(frozen=True)
class Figure:
    """``target`` None: nothing was promised.  ``noise``: how far from 1 a ratio of the same thing
    to itself goes.  ``cause``, of a target that was missed, is for a person to fill in."""

    what: str
    measured: float | Estimate
    unit: str = ""
    target: float | None = None
    at_most: bool = False
    noise: float | None = None
    note: str = ""
    cause: str = ""

    @property
    def value(self) -> float:
        return self.measured.value if isinstance(self.measured, Estimate) else self.measured

    @property
    def met(self) -> bool | None:
        """None where there is no target."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target

    @property
    def goal(self) -> str:
        if self.target is None:
            return "-"
        return f"{'≤' if self.at_most else '≥'} {self.target:g}{self.unit}"

    @property
    def found(self) -> str:
        """With the noise, where it was measured."""
        noise = "" if self.noise is None else f" ±{self.noise:.2f}"
        return f"{shown(self.measured)}{self.unit}{noise}"


@dataclass
class Finding:
    """What became of a part.  ``error``: one line; the traceback is for the JSON."""

    part: str
    share: float
    seconds: float = 0.0
    figures: list[Figure] = field(default_factory=list)
    error: str = ""
    traceback: str = ""
    more: dict[str, Any] = field(default_factory=dict)
