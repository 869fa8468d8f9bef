"""Offers: the best nodes are the best there are."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.speculation.offer import NOTHING, Offer, best, chain_offer, tree_of
from lorax_spec.speculation.tree import ROOT
from tests.speculation.some_offers import offers, paths


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
