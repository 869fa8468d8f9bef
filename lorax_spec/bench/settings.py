"""How much a benchmark measures, and where it says how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from rich.progress import Progress

Item = TypeVar("Item")


@dataclass(frozen=True)
class Settings:
    """``samples`` is what ``--prompts`` gives, else None."""

    progress: Progress
    quick: bool = False
    samples: int | None = None
    seed: int = 0

    def count(self, usual: int, quick: int) -> int:
        """How many prompts (or loads, or groups) to measure."""
        if self.samples is not None:
            return self.samples
        return quick if self.quick else usual

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        yield from self.progress.track(items, total=total, description=what)
