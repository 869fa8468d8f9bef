"""Seeing what an engine plans, and telling it what to draft."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.scheduler import Scheduled
from lorax_spec.engine.sequence import Sequence
from lorax_spec.speculation.tree import DraftTree


@dataclass(frozen=True)
class Rows:
    """What one request had in one step; ``draft`` counts nodes."""

    request_id: int
    start: int
    count: int
    draft: int


@contextmanager
def planned(core: EngineCore) -> Iterator[list[Rows]]:
    """All rows planned while this is open."""
    scheduler, seen = core._scheduler, []
    original = scheduler.schedule

    def schedule() -> list[Scheduled]:
        plan = original()
        seen.extend(
            Rows(s.sequence.request.request_id, s.start, s.count, len(s.draft)) for s in plan
        )
        return plan

    scheduler.schedule = schedule  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        del scheduler.schedule  # type: ignore[method-assign]


@contextmanager
def looking(core: EngineCore, look: Callable[[Sequence], None]) -> Iterator[None]:
    """Every decoding sequence is shown to ``look`` before each step."""
    scheduler = core._scheduler
    original = scheduler.schedule

    def schedule() -> list[Scheduled]:
        for sequence in scheduler.running:
            if sequence.pending == 1 and sequence.generated:
                look(sequence)
        return original()

    scheduler.schedule = schedule  # type: ignore[method-assign]
    try:
        yield
    finally:
        del scheduler.schedule  # type: ignore[method-assign]


@contextmanager
def drafting(core: EngineCore, draft: Callable[[Sequence], DraftTree]) -> Iterator[None]:
    """Every decoding sequence gets its drafts from ``draft``."""

    def give(sequence: Sequence) -> None:
        if sequence.draft_room > 0:
            sequence.draft = draft(sequence)

    with looking(core, give):
        yield
