"""How much to draft: the nodes that make the whole batch fastest.

A step of ``t`` seconds that is expected to give ``T`` tokens runs at ``T / t``.  Adding the
likeliest nodes first, the draft is as large as makes that greatest.  At the margin this is the
rule "one more node pays iff its probability exceeds T dt / t"; looking at all sizes instead of
only the next copes with costs that come in jumps.  Nothing here counts requests or knows a
cut-off: where no node pays, none is drafted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorax_spec.speculation.cost import StepCost
from lorax_spec.speculation.offer import Offer
from lorax_spec.speculation.tree import MAX_NODES

#: Guesses less likely than this never pay, and are not looked at.
_UNLIKELY = 0.01
#: How much faster a draft must promise to be than none: both are estimates.
_WORTH_IT = 1.04
#: Sizes at which the price of a row is looked up.
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True)
class Base:
    """The next step without the drafts to be decided: its rows, the tokens it is expected to give,
    and the seconds of its paths (``StepCost.paths``)."""

    rows: int
    tokens: float
    paths: float = 0.0


@dataclass(frozen=True)
class Wish:
    """A sequence's offer, with probabilities put right; ``context``: its committed tokens."""

    offer: Offer
    context: int


def price(base: Base, cost: StepCost) -> float:
    """Tokens that one more row must bring in expectation, at the size where rows are cheapest.

    1 or more says that no draft can pay.
    """
    seconds = cost.forwards(base.rows, _SIZES[-1])
    slope = min((seconds[n] - seconds[0]) / n for n in _SIZES)
    return max(0.0, slope) / seconds_per_token(base, cost)


def seconds_per_token(base: Base, cost: StepCost) -> float:
    """What it is worth to get one token more out of the next step: the time it would take by
    itself, less what a token costs in any case."""
    return (cost.forward(base.rows) + base.paths) / base.tokens


def allocate(wishes: Sequence[Wish], base: Base, cost: StepCost) -> tuple[list[list[int]], float]:
    """What to draft.

    Returns:
        The nodes of each wish, fewer than MAX_NODES, with the parents of all of them; and what
        one of them costs, in tokens that its time would bring without it.
    """
    candidates = [
        (-reach, index, node)
        for index, wish in enumerate(wishes)
        if not wish.offer.whole
        for node, reach in enumerate(wish.offer.reach)
        if reach > _UNLIKELY
    ]
    if not candidates and not any(wish.offer.whole for wish in wishes):
        return [[] for _ in wishes], 0.0
    # A parent is never less likely than its child and comes before it, so no prefix parts them.
    candidates.sort()
    seconds = cost.seconds(base.rows, base.tokens) + base.paths
    best, best_rate, best_tokens = 0, _WORTH_IT * base.tokens / seconds, base.tokens
    best_paths = base.paths
    tokens, branching, token = base.tokens, base.paths, cost.token
    forwards = cost.forwards(base.rows, len(candidates))
    # A chain is one path, however long.
    paths = [0.0 if wish.offer.is_chain else cost.path(wish.context) for wish in wishes]
    grown: set[tuple[int, int]] = set()
    taken: list[tuple[int, int]] = []
    counts = [0] * len(wishes)
    for negative, index, node in candidates:
        if counts[index] == MAX_NODES - 1:
            continue
        if (path := paths[index]) > 0.0:
            place = (index, wishes[index].offer.parents[node])
            if place in grown:
                branching += path
            grown.add(place)
        taken.append((index, node))
        counts[index] += 1
        tokens -= negative
        rate = tokens / (forwards[len(taken)] + token * tokens + branching)
        if rate > best_rate:
            best, best_rate, best_tokens = len(taken), rate, tokens
            best_paths = branching
    nodes: list[list[int]] = [[] for _ in wishes]
    for index, node in taken[:best]:
        nodes[index].append(node)
    rows = base.rows + best
    for index, wish in enumerate(wishes):
        if wish.offer.whole and (gain := sum(wish.offer.reach)) > 0.0:
            size = len(wish.offer)
            seconds = cost.seconds(rows + size, best_tokens + gain) + best_paths
            rate = (best_tokens + gain) / seconds
            if rate > best_rate:
                nodes[index] = list(range(size))
                rows, best_rate, best_tokens = rows + size, rate, best_tokens + gain
    longer = cost.forward(rows) - cost.forward(base.rows) + best_paths - base.paths
    each = longer / max(1, rows - base.rows) / seconds_per_token(base, cost)
    return nodes, max(0.0, each)
