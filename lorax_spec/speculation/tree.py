"""Draft trees: guesses for the tokens after a sequence's last one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

#: The tree's root: the sequence's last committed token.
ROOT = -1
MAX_NODES = 64


@dataclass(frozen=True)
class DraftTree:
    """Nodes in an order where every parent comes before its children.

    ``parents[i]`` is the index of node ``i``'s parent, or ROOT.  Siblings differ in their token.
    ``drafters[i]`` names who guessed node ``i``.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    drafters: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Distance of each node from the root; 1 for the root's children."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent == ROOT else depths[parent] + 1)
        return tuple(depths)

    @cached_property
    def _children(self) -> dict[tuple[int, int], int]:
        return {
            (parent, token): node
            for node, (parent, token) in enumerate(zip(self.parents, self.tokens, strict=True))
        }

    def child(self, node: int, token: int) -> int | None:
        """The child of ``node`` that guesses ``token``."""
        return self._children.get((node, token))

    @cached_property
    def paths(self) -> tuple[tuple[int, ...], ...]:
        """Root-to-leaf node paths; together they hold every node."""
        leaves = sorted(set(range(len(self))) - set(self.parents))
        return tuple(self._path_to(leaf) for leaf in leaves)

    @cached_property
    def is_chain(self) -> bool:
        return self.parents == tuple(range(ROOT, len(self) - 1))

    @cached_property
    def unseen(self) -> tuple[tuple[int, int], ...]:
        """(node, other): nodes that come before or beside ``node``, but not on its path."""
        seen: list[set[int]] = []
        for node, parent in enumerate(self.parents):
            seen.append({node} if parent == ROOT else {node, *seen[parent]})
        nodes = range(len(self))
        return tuple(
            (node, other)
            for node in nodes
            for other in nodes
            if other not in seen[node] and self.depths[other] <= self.depths[node]
        )

    def _path_to(self, node: int) -> tuple[int, ...]:
        path = []
        while node != ROOT:
            path.append(node)
            node = self.parents[node]
        return tuple(reversed(path))


EMPTY = DraftTree()


def chain(tokens: Sequence[int], drafter: str) -> DraftTree:
    """One guess after the other."""
    count = len(tokens)
    return DraftTree(tuple(tokens), tuple(range(ROOT, count - 1)), (drafter,) * count)
