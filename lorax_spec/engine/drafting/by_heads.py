"""Turns by the heads that draft for them: one pass of an adapter's heads serves all its turns."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Rows
from typing import TypeVar

from lorax_spec.engine.drafting.drafter import Turn
from lorax_spec.speculation.offer import NOTHING, Offer

Heads = TypeVar("Heads")


def offers_by_heads(
    turns: Rows[Turn],
    heads_of: Callable[[Turn], Heads | None],
    offers_of: Callable[[Heads, list[Turn]], list[Offer]],
) -> list[Offer]:
    """One offer for each turn: ``offers_of`` all turns of the same heads, NOTHING without heads."""
    groups = groups_by_heads(turns, heads_of)
    return spread(turns, groups, [offers_of(heads, mine) for heads, mine in groups])


def groups_by_heads(
    turns: Rows[Turn], heads_of: Callable[[Turn], Heads | None]
) -> list[tuple[Heads, list[Turn]]]:
    """Heads with the turns that they may draft for."""
    groups: dict[int, tuple[Heads, list[Turn]]] = {}
    for turn in turns:
        heads = heads_of(turn)
        if heads is not None and min(turn.nodes, turn.depth) > 0:
            groups.setdefault(id(heads), (heads, []))[1].append(turn)
    return list(groups.values())


def spread(
    turns: Rows[Turn], groups: Rows[tuple[Heads, list[Turn]]], offers: Rows[list[Offer]]
) -> list[Offer]:
    """The groups' offers in the order of ``turns``; NOTHING for those of no group."""
    found = {
        id(turn): offer
        for (_, mine), own in zip(groups, offers, strict=True)
        for turn, offer in zip(mine, own, strict=True)
    }
    return [found.get(id(turn), NOTHING) for turn in turns]
