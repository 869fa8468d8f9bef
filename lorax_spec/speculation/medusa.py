"""Drafting from Medusa heads: a chain of best guesses, or the best tree of a given size."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from lorax_spec.speculation.tree import EMPTY, ROOT, DraftTree, chain

DRAFTER = "medusa"
#: Candidates a head offers at each depth.
CANDIDATES = 10

#: One head's best guesses, best first: (token id, log-probability).
HeadGuesses = Sequence[tuple[int, float]]


def draft(heads: Sequence[HeadGuesses], nodes: int) -> DraftTree:
    """Exactly ``nodes`` nodes, or as many as the heads can fill.

    Up to as many nodes as heads the draft is a chain; beyond that it is the tree of those nodes
    whose paths have the greatest product of head probabilities (heads are taken as independent:
    Cai et al. 2024, arXiv 2401.10774, section 2.3.3).
    """
    if nodes == 0 or not heads:
        return EMPTY
    if nodes <= len(heads):
        return chain([guesses[0][0] for guesses in heads[:nodes]], DRAFTER)
    return best_first(heads, nodes)


def best_first(heads: Sequence[HeadGuesses], nodes: int) -> DraftTree:
    """The ``nodes`` likeliest nodes.  A child is never likelier than its parent, so taking them
    best first keeps the tree connected."""
    tokens: list[int] = []
    parents: list[int] = []
    # (cost of the path, tie-breaker, parent node, depth, rank within the head, the parent's cost)
    frontier = [(-heads[0][0][1], 0, ROOT, 0, 0, 0.0)]
    pushed = 1
    while frontier and len(tokens) < nodes:
        cost, _, parent, depth, rank, parent_cost = heapq.heappop(frontier)
        node = len(tokens)
        tokens.append(heads[depth][rank][0])
        parents.append(parent)
        if rank + 1 < len(heads[depth]):
            sibling = parent_cost - heads[depth][rank + 1][1]
            heapq.heappush(frontier, (sibling, pushed, parent, depth, rank + 1, parent_cost))
            pushed += 1
        if depth + 1 < len(heads):
            child = cost - heads[depth + 1][0][1]
            heapq.heappush(frontier, (child, pushed, node, depth + 1, 0, cost))
            pushed += 1
    return DraftTree(tuple(tokens), tuple(parents), (DRAFTER,) * len(tokens))
