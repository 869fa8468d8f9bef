"""The best static tree of its size for given texts, from the ranks that heads gave to what came.

At every place of a text, head 1 had the next token at some rank, head 2 the one after it, and so
on.  A node of a static tree is a path of ranks; it is accepted where the text's ranks begin with
it.  No node is accepted more often than its parent, so the most frequent paths are a tree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

#: A path of ranks; the ranks at one place of a text end before the first that was too low.
Ranks = tuple[int, ...]
#: How often a tree is chosen anew for the places that the last one would have drafted at.
_ROUNDS = 4


def most_frequent(places: Iterable[Ranks], nodes: int) -> list[Ranks]:
    """The ``nodes`` paths that most of the places begin with: of all trees of their size, none is
    accepted deeper on average."""
    counts = Counter(place[:depth] for place in places for depth in range(1, len(place) + 1))
    order = sorted(counts, key=lambda path: (-counts[path], len(path), path))
    return order[:nodes]


def best_static(texts: Sequence[Sequence[Ranks]], nodes: int) -> list[Ranks]:
    """The tree that takes the fewest forward passes over the texts, of those tried.

    A draft begins behind what the last one brought, so not every place counts; which ones do
    depends on the tree.  It is chosen again for its own places, and the best of all is kept.
    """
    places = [place for text in texts for place in text]
    best: list[Ranks] = []
    fewest = sum(map(len, texts)) + 1
    for _ in range(_ROUNDS):
        tree = most_frequent(places, nodes)
        visited = [text[at] for text in texts for at in visits(text, tree)]
        if len(visited) >= fewest:
            break
        best, fewest, places = tree, len(visited), visited
    return best


def visits(text: Sequence[Ranks], tree: Iterable[Ranks]) -> list[int]:
    """The places at which drafts of a static tree begin."""
    known, at, places = set(tree), 0, []
    while at < len(text):
        places.append(at)
        accepted = 0
        while accepted < len(text[at]) and text[at][: accepted + 1] in known:
            accepted += 1
        at += accepted + 1
    return places
