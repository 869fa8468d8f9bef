"""The tree that continuations are laid into, one over the other."""

from __future__ import annotations

from itertools import accumulate
from operator import mul

from lorax_spec.speculation.offer import Offer
from lorax_spec.speculation.tree import ROOT

#: Branches are cut where they are less likely than this, unless the draft would fall short.
_UNLIKELY = 0.01


class GrowingTree:
    """Grows to at most twice ``wanted`` nodes."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._probabilities: list[float] = []
        self._reach: list[float] = []
        # Children by (parent, token), but for those that directly follow their parent.
        self._branches: dict[tuple[int, int], int] = {}
        # What the children of a node leave to further ones.
        self._left: dict[int, float] = {}

    def full(self, chance: float) -> bool:
        """Whether a further line, its first token having ``chance``, is of no use."""
        count = len(self._tokens)
        if count < self._wanted:
            return False
        return count >= 2 * self._wanted or chance * self._left.get(ROOT, 1.0) < _UNLIKELY

    def grow(self, parent: int, tokens: list[int], chances: list[float]) -> int | None:
        """Add ``tokens`` below ``parent``, where they are not there already: token ``i`` with
        probability ``chances[i]`` of what its elder siblings leave.  Returns the last one's node,
        or None where the rest was cut off."""
        known, parents, branches = self._tokens, self._parents, self._branches
        count = len(known)
        depth = 0
        for token in tokens:
            node: int | None = parent + 1
            if node == count or parents[parent + 1] != parent or known[parent + 1] != token:
                node = branches.get((parent, token))
                if node is None:
                    break
            parent = parent + 1 if node is None else node
            depth += 1
        new = tokens[depth:]
        if not new:
            return parent
        left = self._left.get(parent)
        if left is None:
            left = 1.0 - self._probabilities[parent + 1] if self._has_next(parent) else 1.0
        first = chances[depth] * left
        reach = first if parent == ROOT else first * self._reach[parent]
        room = 2 * self._wanted - count
        if count >= self._wanted and (reach < _UNLIKELY or room <= 0):
            return None
        self._left[parent] = left - first
        if parent + 1 != count:
            branches[parent, new[0]] = count
        cut = len(new) > room
        new = new[:room]
        size = len(new)
        later = chances[depth + 1 : depth + size]
        known += new
        parents.append(parent)
        parents += range(count, count + size - 1)
        self._probabilities.append(first)
        self._probabilities += later
        self._reach += accumulate(later, mul, initial=reach)
        return None if cut else count + size - 1

    def offer(self, drafter: str) -> Offer:
        count = len(self._tokens)
        return Offer(
            tuple(self._tokens),
            tuple(self._parents),
            tuple(self._probabilities),
            (drafter,) * count,
        )

    def _has_next(self, node: int) -> bool:
        return node + 1 < len(self._parents) and self._parents[node + 1] == node
