"""Lookahead: a window of guesses that improve one another, inside the draft tree itself.

(Fu, Bailis, Stoica and Zhang 2024, arXiv 2402.02057.)  A window of ``columns`` and n-grams of
``ngram`` tokens: column ``i`` begins ``i`` tokens behind the root and holds ``ngram - 1`` tokens,
each guessed one forward pass later than the one before it.  What the model chooses at its end
completes an n-gram.  The paper's attention pattern, where a token sees the beginnings of the
columns before its own, and its own column, is a tree's: the beginnings are a chain below the root,
and from each of them hangs the rest of its column:

    root ── b1 ── b2 ── b3
     │       │     │     │        columns 4, ngram 4: eleven nodes
     c01    c11   c21   c31
     │       │     │     │
     c02    c12   c22   c32
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorax_spec.speculation.offer import SUREST, Offer
from lorax_spec.speculation.tree import ROOT, DraftTree

#: How a guess came about: it begins an n-gram that followed the last two tokens, or the last one,
#: by order of age up to RANKS; or it stands in the window.  Those after it in the same n-gram or
#: column have the kind LATER above.
RANKS = 4
PAIR, SINGLE, WINDOW = 0, RANKS, 2 * RANKS
LATER = 2 * RANKS + 1
KINDS = 2 * LATER
#: How many n-grams may go on where another one ends.
_GO_ON = 2

#: What followed the last two tokens of a text, and what followed its last one, latest first.
Follow = Callable[[Sequence[int]], tuple[list[tuple[int, ...]], list[tuple[int, ...]]]]


@dataclass(frozen=True)
class Shape:
    """A window; its tree has ``columns * (ngram - 1) - 1`` nodes."""

    columns: int
    ngram: int

    @property
    def nodes(self) -> int:
        return self.columns * (self.ngram - 1) - 1


def shape_for(nodes: int) -> Shape:
    """A window that leaves half of ``nodes`` to n-grams from the pool, or more.

    Short n-grams do best on the embedded model: they go on where they end.
    """
    return Shape(max(1, (nodes // 2 + 1) // 2), 3)


class Window:
    """``columns`` of equally many tokens, one at first and ``ngram - 1`` in the end; the first
    token of the first column is the sequence's last one."""

    def __init__(self, shape: Shape, last: int, guess: Callable[[], int]) -> None:
        """``guess`` makes up tokens where nothing is known yet."""
        self.shape = shape
        self._guess = guess
        self.columns: list[list[int]] = []
        self._refill(last, 1)

    def leaves(self, tree: DraftTree) -> list[int | None]:
        """The node at the end of each column; None for those not wholly in ``tree``."""
        leaves: list[int | None] = []
        beginning: int | None = ROOT
        for index, column in enumerate(self.columns):
            if index and beginning is not None:
                beginning = tree.child(beginning, column[0])
            node = beginning
            for token in column[1:]:
                node = None if node is None else tree.child(node, token)
            leaves.append(node)
        return leaves

    def grow(self, choices: Sequence[int | None]) -> bool:
        """Add what was chosen at each column's end; columns without a choice are given up.
        Returns whether columns begin a token later, since they were full."""
        full = len(self.columns[0]) >= max(1, self.shape.ngram - 1)
        self.columns = [
            [*column[full:], choice]
            for column, choice in zip(self.columns, choices, strict=True)
            if choice is not None
        ]
        return full

    def move(self, count: int, last: int) -> None:
        """The sequence went on by ``count`` tokens, as far as columns did not, to ``last``."""
        height = len(self.columns[0]) if self.columns else 1
        del self.columns[:count]
        self._refill(last, height)

    def _refill(self, last: int, height: int) -> None:
        while len(self.columns) < self.shape.columns:
            self.columns.append([self._guess() for _ in range(height)])
        self.columns[0][0] = last


class Luck:
    """How likely guesses of each kind are right where the one before them was, learned from the
    tokens that came."""

    def __init__(self) -> None:
        ranks = [1 / (rank + 1) for rank in range(RANKS)]
        first = [*(0.4 * share for share in ranks), *(0.2 * share for share in ranks), 0.1]
        self.chances = [*first, *[0.6] * RANKS, *[0.5] * RANKS, 0.3]

    def note(self, kind: int, hit: bool) -> None:
        self.chances[kind] += 0.02 * (hit - self.chances[kind])


@dataclass(frozen=True)
class Guessed:
    """An offer's tree, and how each of its nodes came about."""

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    kinds: tuple[int, ...]

    def judge(self, tokens: Sequence[int], luck: Luck) -> None:
        """Compare with ``tokens``, which came where it guessed."""
        at, first = ROOT, 0
        for token in tokens:
            found = None
            for node in range(first, len(self.tokens)):
                if self.parents[node] == at:
                    hit = self.tokens[node] == token
                    luck.note(self.kinds[node], hit)
                    found = node if hit else found
            if found is None:
                return
            at, first = found, found + 1

    def offer(self, luck: Luck, drafter: str) -> Offer:
        """With probabilities; siblings are worth SUREST together at most."""
        chances = [luck.chances[kind] for kind in self.kinds]
        sums: dict[int, float] = {}
        for parent, chance in zip(self.parents, chances, strict=True):
            sums[parent] = sums.get(parent, 0.0) + chance
        return Offer(
            self.tokens,
            self.parents,
            tuple(
                chance * min(1.0, SUREST / sums[parent])
                for parent, chance in zip(self.parents, chances, strict=True)
            ),
            (drafter,) * len(self.tokens),
            whole=True,
        )


def guesses(
    window: Window, text: Sequence[int], follow: Follow, luck: Luck, nodes: int, depth: int
) -> Guessed:
    """At most ``nodes`` guesses for what comes after ``text``, none deeper than ``depth``: of the
    window as many columns as fit, and the likeliest n-grams, one after another."""
    tree = _Tree(luck, depth)
    branches = _Branches(tree, text, follow)
    branches.grow(nodes - min(window.shape.nodes, nodes * 3 // 4))
    _add_window(tree, window, nodes)
    branches.grow(nodes)
    return Guessed(tuple(tree.tokens), tuple(tree.parents), tuple(tree.kinds))


def _add_window(tree: _Tree, window: Window, limit: int) -> None:
    beginning = ROOT
    for index, column in enumerate(window.columns):
        if index:
            node = tree.add(beginning, column[:1], WINDOW, limit)
            if node is None:
                return
            beginning = node
        kind = WINDOW + LATER if index else WINDOW
        if tree.add(beginning, column[1:], kind, limit) is None:
            return


class _Branches:
    """N-grams from the pool, the likeliest next; where one ends others may go on."""

    def __init__(self, tree: _Tree, text: Sequence[int], follow: Follow) -> None:
        self._tree = tree
        self._text = list(text[-2:])
        self._follow = follow
        # (minus its chance, count, node it hangs below, tokens on the way there, n-gram, kind)
        self._waiting: list[tuple[float, int, int, list[int], tuple[int, ...], int]] = []
        self._count = 0
        self._push(ROOT, [], None)

    def grow(self, limit: int) -> None:
        """Until the tree has ``limit`` nodes, or nothing is left."""
        while self._waiting and len(self._tree.tokens) < limit:
            waiting = heapq.heappop(self._waiting)
            _, _, parent, way, branch, kind = waiting
            node = self._tree.add(parent, branch, kind, limit)
            if node is not None:
                self._push(node, [*way, *branch], _GO_ON)
            elif len(self._tree.tokens) == limit:
                heapq.heappush(self._waiting, waiting)  # to be completed where the limit rises

    def _push(self, node: int, way: list[int], most: int | None) -> None:
        pair, single = self._follow([*self._text, *way])
        found = [(PAIR + min(rank, RANKS - 1), branch) for rank, branch in enumerate(pair)]
        found += [(SINGLE + min(rank, RANKS - 1), branch) for rank, branch in enumerate(single)]
        reach = 1.0 if node == ROOT else self._tree.reach[node]
        for kind, branch in found[:most]:
            self._count += 1
            chance = reach * self._tree.luck.chances[kind]
            heapq.heappush(self._waiting, (-chance, self._count, node, way, branch, kind))


class _Tree:
    """``reach[i]``: how likely node ``i`` is accepted."""

    def __init__(self, luck: Luck, depth: int) -> None:
        self.luck = luck
        self._deepest = depth
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.kinds: list[int] = []
        self.reach: list[float] = []
        self._depths: list[int] = []
        self._known: dict[tuple[int, int], int] = {}

    def add(self, parent: int, tokens: Sequence[int], kind: int, limit: int) -> int | None:
        """One guess after the other below ``parent``, shared where they are known; returns the
        last one's node, or None where ``limit`` nodes had no room for all."""
        for token in tokens:
            node = self._known.get((parent, token))
            if node is None:
                node = len(self.tokens)
                depth = 1 if parent == ROOT else self._depths[parent] + 1
                if node >= limit or depth > self._deepest:
                    return None
                self._known[parent, token] = node
                self.tokens.append(token)
                self.parents.append(parent)
                self.kinds.append(kind)
                above = 1.0 if parent == ROOT else self.reach[parent]
                self.reach.append(above * self.luck.chances[kind])
                self._depths.append(depth)
            parent = node
            kind = kind if kind >= LATER else kind + LATER
        return parent
