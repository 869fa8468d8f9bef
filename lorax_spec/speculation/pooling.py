"""One tree of what several drafters guess.

Where more than one has guesses for the same place, these are pooled (a logarithmic opinion pool:
Genest and Zidek 1986, "Combining probability distributions").  With ``p_d(v)`` drafter d's
probability of token v, ``r_d`` what it leaves for tokens it does not guess, and
``p_d(v) = exp(ABSENT) r_d`` for each of those, the probability of v is the softmax of::

    score(v) = WEIGHT * sum over d of log p_d(v)
    score(none of these) = NONE_WEIGHT * sum over d of log r_d + NONE

So two who agree are surer than either, and one who is sure gives way to another who is sure of
something else.  The constants were fitted to prompt lookup and Hydra heads on the outputs of the
embedded model, by maximum likelihood, and are as good for Medusa heads and the draft model
(docs/benchmarks/2026-11-22.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

from lorax_spec.speculation.offer import NOTHING, SUREST, Offer
from lorax_spec.speculation.tree import ROOT

WEIGHT, ABSENT = 0.77, -2.94
NONE_WEIGHT, NONE = 0.47, -3.41
#: The least that counts as a probability, and as what a drafter leaves.
_LEAST, _LEFT = 1e-3, 0.01

#: By drafter's place among those merged, its probability of a token.
_Opinions = dict[int, float]


def merge(offers: Sequence[Offer]) -> Offer:
    """All guesses in one tree, shared prefixes once.

    The surest of those who guessed a token is named as who did.  Where only one drafter has
    guesses, its probabilities stay as they are, but siblings are never worth more than SUREST.
    """
    offers = [offer for offer in offers if len(offer)]
    if len(offers) < 2:
        return offers[0] if offers else NOTHING
    tokens: list[int] = []
    parents: list[int] = []
    opinions: list[_Opinions] = []
    drafters: list[str] = []
    children: dict[int, dict[int, int]] = {}
    for index, offer in enumerate(offers):
        places: list[int] = []
        for token, parent, probability, drafter in zip(
            offer.tokens, offer.parents, offer.probabilities, offer.drafters, strict=True
        ):
            above = ROOT if parent == ROOT else places[parent]
            siblings = children.setdefault(above, {})
            node = siblings.get(token)
            if node is None:
                node = siblings[token] = len(tokens)
                tokens.append(token)
                parents.append(above)
                opinions.append({})
                drafters.append(drafter)
            elif probability > max(opinions[node].values()):
                drafters[node] = drafter
            opinions[node][index] = probability
            places.append(node)
    probabilities = [0.0] * len(tokens)
    for siblings in children.values():
        nodes = siblings.values()
        for node, probability in zip(nodes, pooled([opinions[n] for n in nodes]), strict=True):
            probabilities[node] = probability
    return Offer(tuple(tokens), tuple(parents), tuple(probabilities), tuple(drafters))


def pooled(siblings: Sequence[_Opinions]) -> list[float]:
    """The probability of each of several tokens for the same place, at most SUREST together."""
    who = {drafter for opinions in siblings for drafter in opinions}
    if len(who) == 1:
        chances = [next(iter(opinions.values())) for opinions in siblings]
    else:
        rests = {d: log(max(_LEFT, 1.0 - sum(o.get(d, 0.0) for o in siblings))) for d in who}
        scores = [
            WEIGHT
            * sum(
                log(max(_LEAST, opinions[d])) if d in opinions else rest + ABSENT
                for d, rest in rests.items()
            )
            for opinions in siblings
        ]
        none = NONE_WEIGHT * sum(rests.values()) + NONE
        top = max(none, *scores)
        powers = [exp(score - top) for score in scores]
        total = sum(powers) + exp(none - top)
        chances = [power / total for power in powers]
    scale = min(1.0, SUREST / sum(chances))
    return [chance * scale for chance in chances]


def gain_over(others: Offer, merged: Offer, nodes: Sequence[int], dear: float) -> float:
    """What a drafter brought: how much more the drafted ``nodes`` of all drafters' ``merged`` offer
    are worth than as large a draft from the ``others`` alone.

    In tokens, net of what each node costs (``dear``).  The others' draft is chosen by what they
    say, and judged by what all of them say together.
    """
    likeliest = sorted(range(len(others)), key=lambda node: (-others.reach[node], node))
    chosen = [node for node in likeliest[: len(nodes)] if others.reach[node] > dear]
    places = zip(merged.parents, merged.tokens, strict=True)
    known = {place: node for node, place in enumerate(places)}
    there = {ROOT: ROOT}
    for node in sorted(chosen):
        parent = there.get(others.parents[node])
        # A grammar may have cut it off.
        if parent is not None and (same := known.get((parent, others.tokens[node]))) is not None:
            there[node] = same
    with_it = sum(merged.reach[node] - dear for node in nodes)
    without = sum(merged.reach[there[node]] - dear for node in chosen if node in there)
    return with_it - without
