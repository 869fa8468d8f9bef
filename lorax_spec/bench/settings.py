"""How much a benchmark measures, and where it says how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rich.progress import Progress

from lorax_spec.bench.workload import Prompt, prompts
from lorax_spec.text.tokenizer import TextTokenizer

Item = TypeVar("Item")

_QUICK_TOKENS = 48


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

    def prompts(self, kinds: Sequence[str], count: int, tokenizer: TextTokenizer) -> list[Prompt]:
        """Prompts to be timed; in a quick run their answers are cut short."""
        chosen = prompts(kinds, count, tokenizer)
        return [replace(p, new_tokens=_QUICK_TOKENS) for p in chosen] if self.quick else chosen

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        yield from self.progress.track(items, total=total, description=what)
