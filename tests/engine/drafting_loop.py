"""A drafter at work without an engine: one sequence, logits from anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from lorax_spec.engine.drafting.drafter import Drafter, Outcome, Turn
from lorax_spec.engine.sampling import Chosen, Place, choose
from lorax_spec.engine.sequence import Sequence
from lorax_spec.speculation.offer import Offer, best
from lorax_spec.speculation.tree import ROOT, DraftTree
from lorax_spec.speculation.verify import At, verify

#: Raw logits [vocabulary] of what follows some tokens.
Model = Callable[[list[int]], torch.Tensor]


@dataclass(frozen=True)
class Step:
    token: int
    ends: bool = False


@dataclass
class Run:
    """What became of one sequence; ``offers`` and ``steps`` (tokens per pass) in their order."""

    offers: list[Offer] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    @property
    def tokens_per_forward(self) -> float:
        return sum(self.steps) / len(self.steps)


def sure_of(token: int, vocabulary: int) -> torch.Tensor:
    """Logits that leave no doubt."""
    return torch.zeros(vocabulary).index_fill(0, torch.tensor(token), 30.0)


def node_tokens(tree: DraftTree, node: int) -> list[int]:
    """The tokens on the way from the root to ``node``, which is included."""
    way: list[int] = []
    while node != ROOT:
        way.insert(0, tree.tokens[node])
        node = tree.parents[node]
    return way


def check(offer: Offer, turn: Turn) -> None:
    """What every drafter promises of an offer (docs/drafters.md)."""
    tree = DraftTree(offer.tokens, offer.parents, offer.drafters)
    count = len(offer)
    assert len(offer.parents) == len(offer.probabilities) == len(offer.drafters) == count
    assert all(ROOT <= parent < node for node, parent in enumerate(offer.parents))
    assert len(set(zip(offer.parents, offer.tokens, strict=True))) == count
    assert all(0.0 < probability <= 1.0 for probability in offer.probabilities)
    assert max(tree.depths, default=0) <= turn.depth


def run(drafter: Drafter, sequence: Sequence, model: Model, nodes: int) -> Run:
    """Decode to the sequence's limit as the engine does: offer, verify, observe, commit."""
    result = Run()
    hidden = torch.zeros(4)
    while len(sequence.tokens) < sequence.limit:
        turn = Turn(sequence, hidden, nodes, min(nodes, sequence.draft_room))
        offer = drafter.offer([turn])[0] if turn.depth > 0 else Offer()
        check(offer, turn)
        result.offers.append(offer)
        step(drafter, sequence, model, best(offer, nodes), result)
    drafter.forget(sequence)
    return result


def step(drafter: Drafter, sequence: Sequence, model: Model, draft: DraftTree, result: Run) -> None:
    """One forward pass over ``draft`` and all that follows from it."""
    tokens = sequence.tokens
    logits = torch.stack(
        [model(tokens + node_tokens(draft, node)) for node in range(ROOT, len(draft))]
    )
    depth = 0

    def chosen(places: list[At]) -> list[Step]:
        nonlocal depth
        (place,) = places
        where = Place(place.node + 1, len(tokens) + depth, sequence.rule, None)
        depth += 1
        (one,) = choose(logits, [where])
        assert isinstance(one, Chosen)
        return [Step(one.token, len(tokens) + depth >= sequence.limit)]

    (walk,) = verify([draft], chosen)
    if draft:
        drafter.observe([Outcome(sequence, draft, logits, walk.nodes)])
    sequence.tokens += [choice.token for choice in walk.choices]
    result.steps.append(len(walk.choices))
