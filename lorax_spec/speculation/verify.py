"""Walking draft trees with the tokens the model really chooses.

From the root on, the token of each position is chosen by the rule that also holds without any
draft; if a child guessed it, the walk goes on there with the logits already computed.  The draft
decides how far a walk gets, never what it chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from lorax_spec.speculation.tree import ROOT, DraftTree


class Choice(Protocol):
    """A chosen token; ``ends`` says that nothing may follow it."""

    @property
    def token(self) -> int: ...
    @property
    def ends(self) -> bool: ...


C = TypeVar("C", bound=Choice)


@dataclass(frozen=True)
class At:
    """A place in one of several trees: node ``node`` of tree ``tree``."""

    tree: int
    node: int


@dataclass(frozen=True)
class Walk(Generic[C]):
    """What one tree's walk chose, and the nodes it went through (one fewer than the choices)."""

    choices: tuple[C, ...]
    nodes: tuple[int, ...]


def verify(trees: Sequence[DraftTree], choose: Callable[[list[At]], list[C]]) -> list[Walk[C]]:
    """Walk all trees level by level; ``choose`` gives the token after each of the places.

    For one tree, ``choose`` is called with its places in order of depth, so it may keep state
    (penalties, grammars) that each chosen token advances.
    """
    choices: list[list[C]] = [[] for _ in trees]
    nodes: list[list[int]] = [[] for _ in trees]
    places = [At(tree, ROOT) for tree in range(len(trees))]
    while places:
        deeper = []
        for place, choice in zip(places, choose(places), strict=True):
            choices[place.tree].append(choice)
            child = trees[place.tree].child(place.node, choice.token)
            if child is not None and not choice.ends:
                nodes[place.tree].append(child)
                deeper.append(At(place.tree, child))
        places = deeper
    return [Walk(tuple(c), tuple(n)) for c, n in zip(choices, nodes, strict=True)]
