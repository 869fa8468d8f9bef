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
(docs/benchmarks/2026-11-22b.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log

from lorax_spec.speculation.offer import NOTHING, SUREST, Offer
from lorax_spec.speculation.tree import ROOT

WEIGHT, ABSENT = 0.77, -2.94
NONE_WEIGHT, NONE = 0.47, -3.41
#: The least that counts as a probability, and as what a drafter leaves.
_LEAST, _LEFT = 1e-3, 0.01


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
    drafters: list[str] = []
    # What each drafter that guessed a node gave it; and by place, its nodes and what each drafter
    # that has guesses there gave them together.
    given: list[dict[int, float]] = []
    nodes_at: dict[int, dict[int, int]] = {}
    given_at: dict[int, dict[int, float]] = {}
    for index, offer in enumerate(offers):
        places: list[int] = []
        for token, parent, probability, drafter in zip(
            offer.tokens, offer.parents, offer.probabilities, offer.drafters, strict=True
        ):
            place = ROOT if parent == ROOT else places[parent]
            nodes = nodes_at.get(place)
            if nodes is None:
                nodes, given_at[place] = nodes_at.setdefault(place, {}), {}
            node = nodes.get(token)
            if node is None:
                node = nodes[token] = len(tokens)
                tokens.append(token)
                parents.append(place)
                drafters.append(drafter)
                given.append({index: probability})
            else:
                if probability > max(given[node].values()):
                    drafters[node] = drafter
                given[node][index] = probability
            together = given_at[place]
            together[index] = together.get(index, 0.0) + probability
            places.append(node)
    probabilities = [0.0] * len(tokens)
    for place, siblings in nodes_at.items():
        if len(given_at[place]) > 1:
            pooled = _pooled([given[node] for node in siblings.values()], given_at[place])
            for node, probability in zip(siblings.values(), pooled, strict=True):
                probabilities[node] = probability
        else:
            ((only, total),) = given_at[place].items()
            scale = SUREST / total if total > SUREST else 1.0
            for node in siblings.values():
                probabilities[node] = given[node][only] * scale
    return Offer(tuple(tokens), tuple(parents), tuple(probabilities), tuple(drafters))


def _pooled(given: Sequence[Mapping[int, float]], totals: Mapping[int, float]) -> list[float]:
    """The probabilities of tokens for one place: of each what drafters gave it, and what each of
    them gave to all of them together."""
    absent = {d: log(max(_LEFT, 1.0 - total)) + ABSENT for d, total in totals.items()}
    all_absent = sum(absent.values())
    none = NONE_WEIGHT * (all_absent - ABSENT * len(absent)) + NONE
    scores = []
    for opinions in given:
        score = all_absent
        for drafter, probability in opinions.items():
            score += log(max(_LEAST, probability)) - absent[drafter]
        scores.append(WEIGHT * score)
    top = max(none, *scores)
    powers = [exp(score - top) for score in scores]
    total = sum(powers)
    # Something else always remains possible.
    all_of_them = max(total + exp(none - top), total / SUREST)
    return [power / all_of_them for power in powers]


def gain_over(others: Offer, merged: Offer, nodes: Sequence[int], dear: float) -> float:
    """What a drafter brought: how much more the drafted ``nodes`` of all drafters' ``merged`` offer
    are worth than as large a draft from the ``others`` alone.

    In tokens, net of what each node costs (``dear``).  The others' draft is chosen by what they
    say, and judged by what all of them say together.
    """
    judged = merged.reach
    alone = sum(judged[node] for node in nodes) - dear * len(nodes)
    if not others:
        return alone
    reach = others.reach
    known = dict(
        zip(zip(merged.parents, merged.tokens, strict=True), range(len(merged)), strict=True)
    )
    there = {ROOT: ROOT}
    without = 0.0
    # Of equals the parents come first.
    for node in sorted(range(len(others)), key=reach.__getitem__, reverse=True)[: len(nodes)]:
        if reach[node] <= dear:
            break
        parent = there.get(others.parents[node])
        # A grammar may have cut it off.
        if parent is not None and (same := known.get((parent, others.tokens[node]))) is not None:
            there[node] = same
            without += judged[same] - dear
    return alone - without
