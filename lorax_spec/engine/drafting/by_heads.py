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
    groups: dict[int, tuple[Heads, list[int]]] = {}
    for index, turn in enumerate(turns):
        heads = heads_of(turn)
        if heads is not None and min(turn.nodes, turn.depth) > 0:
            groups.setdefault(id(heads), (heads, []))[1].append(index)
    offers = [NOTHING] * len(turns)
    for heads, members in groups.values():
        mine = [turns[index] for index in members]
        for index, offer in zip(members, offers_of(heads, mine), strict=True):
            offers[index] = offer
    return offers
