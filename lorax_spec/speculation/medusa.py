"""The best tree of independent heads (Cai et al. 2024, arXiv 2401.10774, section 2.3.3)."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from lorax_spec.speculation.offer import NOTHING, Offer
from lorax_spec.speculation.tree import ROOT

#: One head's best guesses, likeliest first: (token id, probability).
HeadGuesses = Sequence[tuple[int, float]]
#: A static tree in the original's form: paths of ranks, such as (0,), (0, 0), (1,).
Choices = Sequence[tuple[int, ...]]


def best_first(heads: Sequence[HeadGuesses], nodes: int, drafter: str) -> Offer:
    """The ``nodes`` likeliest nodes, or as many as the heads can fill.

    Heads are taken as independent, so a path is as likely as the product of its guesses.  A child
    is never likelier than its parent; taking nodes best first keeps the tree connected.
    """
    if nodes <= 0 or not heads or not heads[0]:
        return NOTHING
    tokens: list[int] = []
    parents: list[int] = []
    probabilities: list[float] = []
    # (minus how likely the path is, tie-breaker, parent node, depth, rank, how likely the parent)
    frontier = [(-heads[0][0][1], 0, ROOT, 0, 0, 1.0)]
    pushed = 1
    while frontier and len(tokens) < nodes:
        negative, _, parent, depth, rank, before = heapq.heappop(frontier)
        node = len(tokens)
        token, probability = heads[depth][rank]
        tokens.append(token)
        parents.append(parent)
        probabilities.append(probability)
        if rank + 1 < len(heads[depth]):
            sibling = -before * heads[depth][rank + 1][1]
            heapq.heappush(frontier, (sibling, pushed, parent, depth, rank + 1, before))
            pushed += 1
        if depth + 1 < len(heads) and heads[depth + 1]:
            child = negative * heads[depth + 1][0][1]
            heapq.heappush(frontier, (child, pushed, node, depth + 1, 0, -negative))
            pushed += 1
    return Offer(tuple(tokens), tuple(parents), tuple(probabilities), (drafter,) * len(tokens))


def static(heads: Sequence[HeadGuesses], choices: Choices, drafter: str) -> Offer:
    """The tree of ``choices``, as far as the heads have so many guesses.

    ``choices`` hold every path's beginnings.
    """
    tokens: list[int] = []
    parents: list[int] = []
    probabilities: list[float] = []
    places: dict[tuple[int, ...], int] = {(): ROOT}
    for path in sorted(choices, key=lambda path: (len(path), path)):
        depth, rank = len(path) - 1, path[-1]
        parent = places.get(path[:-1])
        if parent is None or depth >= len(heads) or rank >= len(heads[depth]):
            continue
        places[path] = len(tokens)
        tokens.append(heads[depth][rank][0])
        parents.append(parent)
        probabilities.append(heads[depth][rank][1])
    return Offer(tuple(tokens), tuple(parents), tuple(probabilities), (drafter,) * len(tokens))
