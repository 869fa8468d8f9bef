"""Counting guesses, by who made them and how far ahead."""

from __future__ import annotations

from collections.abc import Iterable

from lorax_spec.speculation.tree import DraftTree
from lorax_spec.types import DrafterCounts


class Guesses:
    """Drafted and accepted nodes, by drafter and depth."""

    def __init__(self) -> None:
        self._counts: dict[str, DrafterCounts] = {}
        self._tallies: dict[str, tuple[list[int], list[int]]] = {}

    def note(self, draft: DraftTree, accepted: Iterable[int]) -> None:
        """Count a verified draft; ``accepted``: the nodes its walk went through."""
        if not draft:
            return
        for drafter, depth in zip(draft.drafters, draft.depths, strict=True):
            drafted, right = self._tallies.setdefault(drafter, ([], []))
            missing = [0] * (depth - len(drafted))
            drafted += missing
            right += missing
            drafted[depth - 1] += 1
        for node in accepted:
            self._tallies[draft.drafters[node]][1][draft.depths[node] - 1] += 1
        for drafter in set(draft.drafters):
            drafted, right = self._tallies[drafter]
            self._counts[drafter] = DrafterCounts(
                sum(drafted), sum(right), tuple(drafted), tuple(right)
            )

    def by_drafter(self) -> dict[str, DrafterCounts]:
        """A snapshot."""
        return dict(self._counts)


def total(counts: Iterable[DrafterCounts]) -> DrafterCounts:
    """The sum, depth by depth."""
    counts = list(counts)
    depth = max((len(one.drafted_by_depth) for one in counts), default=0)

    def summed(lists: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
        padded = [(*one, *[0] * (depth - len(one))) for one in lists]
        return tuple(map(sum, zip(*padded, strict=True)))

    return DrafterCounts(
        sum(one.drafted_tokens for one in counts),
        sum(one.accepted_tokens for one in counts),
        summed(one.drafted_by_depth for one in counts),
        summed(one.accepted_by_depth for one in counts),
    )
