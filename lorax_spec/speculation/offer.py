"""Offers: what a drafter would guess, and how sure it is of every guess.

An offer is larger than what will be verified.  Offers of several drafters are merged into one,
and the budget takes the best nodes of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import mul

from lorax_spec.speculation.tree import MAX_NODES, ROOT, DraftTree

#: What siblings may be worth together: something else always remains possible.
SUREST = 0.99


@dataclass(frozen=True)
class Offer:
    """A tree of guesses for one sequence.

    ``tokens`` and ``parents`` are those of a DraftTree: parents come before their children, and
    siblings differ.  ``probabilities[i]``: how likely node ``i`` holds the model's token where its
    parent did, in (0, 1].  ``drafters[i]`` names who guessed it.  A ``whole`` offer is worth
    nothing in part: it is drafted as it is, or not at all.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    drafters: tuple[str, ...] = ()
    whole: bool = False

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def reach(self) -> list[float]:
        """How likely each node is accepted: the product of the probabilities on its path."""
        if self.is_chain:
            return list(accumulate(self.probabilities, mul))
        reach: list[float] = []
        for parent, probability in zip(self.parents, self.probabilities, strict=True):
            reach.append(probability if parent == ROOT else reach[parent] * probability)
        return reach

    @cached_property
    def is_chain(self) -> bool:
        return self.parents == _CHAINS[len(self.parents)]


_CHAINS = tuple(tuple(range(ROOT, length - 1)) for length in range(4 * MAX_NODES))
NOTHING = Offer()


def chain_offer(tokens: Sequence[int], probabilities: Sequence[float], drafter: str) -> Offer:
    """One guess after the other."""
    count = len(tokens)
    parents = tuple(range(ROOT, count - 1))
    return Offer(tuple(tokens), parents, tuple(probabilities), (drafter,) * count)


def tree_of(offer: Offer, nodes: Iterable[int]) -> DraftTree:
    """The draft made of ``nodes``, which hold every chosen node's parent."""
    chosen = sorted(nodes)[:MAX_NODES]
    count = len(chosen)
    if chosen and chosen[-1] == count - 1:  # the first of them, as of a chain
        return DraftTree(offer.tokens[:count], offer.parents[:count], offer.drafters[:count])
    place = {node: index for index, node in enumerate(chosen)}
    return DraftTree(
        tuple(offer.tokens[node] for node in chosen),
        tuple(ROOT if offer.parents[n] == ROOT else place[offer.parents[n]] for n in chosen),
        tuple(offer.drafters[node] for node in chosen),
    )


def best(offer: Offer, count: int) -> DraftTree:
    """The ``count`` likeliest nodes, or all there are.

    A node is never likelier than its parent, and comes after it, so ties cannot part them.
    """
    if count <= 0:
        return DraftTree()
    if len(offer) <= count:
        return DraftTree(offer.tokens, offer.parents, offer.drafters)
    reach = offer.reach
    return tree_of(offer, sorted(range(len(offer)), key=lambda node: (-reach[node], node))[:count])
