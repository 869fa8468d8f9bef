"""Merged offers: nothing is lost, and what several guess for one place is pooled by the formula."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from lorax_spec.speculation.offer import NOTHING, SUREST, Offer, best, chain_offer
from lorax_spec.speculation.pooling import ABSENT, NONE, NONE_WEIGHT, WEIGHT, gain_over, merge
from lorax_spec.speculation.tree import ROOT
from tests.speculation.some_offers import offers, paths


@given(st.lists(offers(), max_size=3))
def test_merging_loses_nothing_and_invents_nothing(several: list[Offer]) -> None:
    merged = paths(merge(several))
    offered = [paths(offer) for offer in several]
    assert merged.keys() == {path for one in offered for path in one}
    for path, (_, drafter) in merged.items():
        surest = max(one[path][0] for one in offered if path in one)
        assert drafter in {one[path][1] for one in offered if one.get(path, (0,))[0] == surest}


@given(st.lists(offers(), min_size=2, max_size=4))
def test_guesses_for_one_place_are_pooled_by_the_formula(several: list[Offer]) -> None:
    """In float64 over all tokens there are, with no cases."""
    merged = paths(merge(several))
    offered = [paths(offer) for offer in several if offer]
    for above, level in itertools.groupby(sorted(merged, key=_level), key=lambda path: path[:-1]):
        tokens = [path[-1] for path in level]
        said = [
            [one.get((*above, token), (0.0,))[0] for token in tokens]
            for one in offered
            if any((*above, token) in one for token in tokens)
        ]
        wanted = np.array(said[0])
        if len(said) > 1:
            opinions = np.array(said)
            left = np.maximum(1.0 - opinions.sum(1, keepdims=True), 0.01)
            opinions = np.where(opinions > 0, np.maximum(opinions, 1e-3), left * np.exp(ABSENT))
            scores = WEIGHT * np.log(opinions).sum(0)
            none = NONE_WEIGHT * np.log(left).sum() + NONE
            wanted = np.exp(log_softmax([*scores, none]))[:-1]
        if len(offered) > 1:
            wanted = wanted * min(1.0, SUREST / wanted.sum())
        found = [merged[(*above, token)][0] for token in tokens]
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


def _level(path: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    return len(path), path


@given(st.lists(offers(), max_size=3))
def test_who_comes_first_makes_no_difference(several: list[Offer]) -> None:
    merged = paths(merge(several))
    for order in itertools.permutations(several):
        again = paths(merge(order))
        assert again.keys() == merged.keys()
        for path, (probability, _) in again.items():
            assert probability == pytest.approx(merged[path][0])


@given(st.lists(offers(drafter="a"), min_size=1, max_size=3))
def test_probabilities_stay_probabilities(several: list[Offer]) -> None:
    merged = merge(several)
    sums: dict[int, float] = {}
    for parent, probability in zip(merged.parents, merged.probabilities, strict=True):
        assert 0.0 < probability <= 1.0
        sums[parent] = sums.get(parent, 0.0) + probability
    assert all(total <= 1.0 + 1e-9 for total in sums.values())


def test_two_who_agree_are_surer_than_either_and_none_is_drowned_out() -> None:
    one, other = chain_offer([5], [0.5], "a"), chain_offer([5], [0.4], "b")
    assert merge([one, other]).probabilities[0] > 0.5
    sure, wrong = chain_offer([5], [0.95], "a"), chain_offer([6], [0.4], "b")
    torn = merge([sure, wrong])
    assert 0.5 < torn.probabilities[0] < 0.95
    assert torn.probabilities[1] < 0.4
    assert merge([NOTHING, sure]) is sure
    assert merge([]) == NOTHING
    assert torn.parents == (ROOT, ROOT)


@given(offers(drafter="a"), offers(drafter="b"), st.integers(1, 6), st.floats(0.0, 0.3))
def test_a_gain_is_what_the_others_alone_would_miss(
    first: Offer, second: Offer, count: int, dear: float
) -> None:
    merged = merge([first, second])
    reach = dict(zip(paths(merged), merged.reach, strict=True))
    likeliest = sorted(range(len(merged)), key=lambda node: (-merged.reach[node], node))[:count]
    nodes = [node for node in likeliest if merged.reach[node] > dear]
    gain = gain_over(first, merged, nodes, dear)

    alone = best(first, len(nodes))
    kept = paths(Offer(alone.tokens, alone.parents, (1.0,) * len(alone), alone.drafters))
    own = dict(zip(paths(first), first.reach, strict=True))
    without = sum(reach[path] - dear for path in kept if own[path] > dear)
    assert gain == pytest.approx(sum(merged.reach[node] - dear for node in nodes) - without)
    assert gain >= -1e-9, "the best draft of all guesses is no worse than that of some"


def test_what_a_grammar_cut_off_is_worth_nothing_and_costs_nothing() -> None:
    others = chain_offer([5, 6], [0.9, 0.9], "a")
    allowed = chain_offer([7], [0.4], "b")
    assert gain_over(others, allowed, [0], 0.1) == pytest.approx(0.4 - 0.1)
