"""Offers: merging keeps what was offered, and the best nodes are the best there are."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.speculation.offer import NOTHING, SUREST, Offer, best, chain_offer, merge, tree_of
from lorax_spec.speculation.tree import ROOT


@st.composite
def offers(draw: st.DrawFn, most: int = 8, drafter: str = "") -> Offer:
    """Siblings differ, and are worth at most 1 together."""
    name = drafter or draw(st.sampled_from(["a", "b", "c"]))
    tokens: list[int] = []
    parents: list[int] = []
    left: dict[int, float] = {}
    probabilities: list[float] = []
    for node in range(draw(st.integers(0, most))):
        parent = draw(st.integers(ROOT, node - 1))
        siblings = {t for t, p in zip(tokens, parents, strict=True) if p == parent}
        tokens.append(draw(st.integers(0, 9).filter(lambda token, s=siblings: token not in s)))
        parents.append(parent)
        share = draw(st.floats(0.05, 0.95)) * left.get(parent, 1.0)
        left[parent] = left.get(parent, 1.0) - share
        probabilities.append(share)
    return Offer(tuple(tokens), tuple(parents), tuple(probabilities), (name,) * len(tokens))


def paths(offer: Offer) -> dict[tuple[int, ...], tuple[float, str]]:
    """Every node's probability and drafter, by the tokens that lead to it."""
    found: list[tuple[int, ...]] = []
    for token, parent in zip(offer.tokens, offer.parents, strict=True):
        found.append((token,) if parent == ROOT else (*found[parent], token))
    assert len(set(found)) == len(found), "siblings differ"
    return dict(zip(found, zip(offer.probabilities, offer.drafters, strict=True), strict=True))


@given(st.lists(offers(), max_size=3))
def test_merging_loses_nothing_and_invents_nothing(several: list[Offer]) -> None:
    merged = paths(merge(several))
    offered = [paths(offer) for offer in several]
    assert merged.keys() == {path for one in offered for path in one}
    for path, (_, drafter) in merged.items():
        surest = max(one[path][0] for one in offered if path in one)
        assert drafter in {one[path][1] for one in offered if one.get(path, (0,))[0] == surest}


@given(offers(drafter="a"), offers(drafter="b"))
def test_the_surest_is_believed_and_siblings_share(first: Offer, second: Offer) -> None:
    together = paths(merge([first, second]))
    level: dict[tuple[int, ...], float] = {}
    surest = {
        path: max(one[path][0] for one in (paths(first), paths(second)) if path in one)
        for path in together
    }
    for path, probability in surest.items():
        level[path[:-1]] = level.get(path[:-1], 0.0) + probability
    for path, (probability, _) in together.items():
        most = SUREST if first and second else 1.0
        share = min(1.0, most / level[path[:-1]])
        assert probability == pytest.approx(surest[path] * share)


@given(offers(most=7), st.integers(0, 8))
def test_the_best_nodes_are_worth_most(offer: Offer, count: int) -> None:
    draft, reach = best(offer, count), offer.reach
    assert len(draft) == min(count, len(offer))
    connected = [
        sum(reach[node] for node in nodes)
        for nodes in itertools.combinations(range(len(offer)), len(draft))
        if all(offer.parents[node] in (ROOT, *nodes) for node in nodes)
    ]
    chosen = paths(Offer(draft.tokens, draft.parents, (1.0,) * len(draft), draft.drafters))
    all_reach = dict(zip(paths(offer), reach, strict=True))
    assert sum(all_reach[path] for path in chosen) == pytest.approx(max(connected, default=0.0))


def test_a_chain_is_an_offer() -> None:
    offer = chain_offer([5, 6], [0.5, 0.5], "a")
    assert offer.reach == [0.5, 0.25]
    assert tree_of(offer, [0, 1]).is_chain
    assert best(NOTHING, 3) == best(offer, 0)
