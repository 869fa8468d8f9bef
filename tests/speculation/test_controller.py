"""The budget: what is drafted makes the batch fastest; costs and acceptance are learned."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lorax_spec.speculation.acceptance import Acceptance
from lorax_spec.speculation.controller import Base, Wish, allocate, price
from lorax_spec.speculation.cost import StepCost
from lorax_spec.speculation.offer import Offer, chain_offer
from lorax_spec.speculation.tree import ROOT
from tests.speculation.test_offers import offers

costs = st.lists(st.floats(0.0, 1.0), min_size=15, max_size=15).map(
    lambda steps: StepCost(dict(enumerate(itertools.accumulate(steps, initial=1.0), 1)))
)


def rate(wishes: list[Wish], nodes: list[list[int]], base: Base, cost: StepCost) -> float:
    reach = [wish.offer.reach for wish in wishes]
    tokens = sum(reach[i][node] for i, chosen in enumerate(nodes) for node in chosen)
    return (base.tokens + tokens) / cost.seconds(base.rows + sum(map(len, nodes)))


@given(st.lists(offers(most=4), min_size=1, max_size=2), costs, st.integers(1, 3))
def test_no_other_draft_is_faster(several: list[Offer], cost: StepCost, rows: int) -> None:
    """Against every draft there is."""
    wishes = [Wish(offer, 10) for offer in several]
    base = Base(rows, float(rows))
    drafts = []
    for offer in several:
        subsets = itertools.chain.from_iterable(
            itertools.combinations(range(len(offer)), n) for n in range(len(offer) + 1)
        )
        drafts.append([list(s) for s in subsets if all(offer.parents[n] in (ROOT, *s) for n in s)])
    fastest = max(rate(wishes, list(d), base, cost) for d in itertools.product(*drafts))
    chosen, _ = allocate(wishes, base, cost)
    for offer, nodes in zip(several, chosen, strict=True):
        assert all(offer.parents[node] in (ROOT, *nodes) for node in nodes)
    assert rate(wishes, chosen, base, cost) == pytest.approx(fastest, rel=0.041)


@given(st.lists(offers(), min_size=1, max_size=4), st.integers(1, 64))
def test_rows_that_cost_as_much_as_tokens_are_not_drafted(several: list[Offer], rows: int) -> None:
    cost = StepCost({1: 1.0, 128: 128.0})
    base = Base(rows, float(rows))
    assert price(base, cost) == pytest.approx(1.0)
    nodes, dear = allocate([Wish(offer, 1) for offer in several], base, cost)
    assert (any(nodes), dear) == (False, 0.0)


def test_free_rows_take_every_likely_guess() -> None:
    cost = StepCost({1: 1.0, 64: 1.0})
    offer = chain_offer([1, 2, 3], [0.9, 0.5, 0.1], "a")
    assert price(Base(1, 1.0), cost) == 0.0
    assert allocate([Wish(offer, 1)], Base(1, 1.0), cost) == ([[0, 1, 2]], 0.0)


def test_branching_is_paid_for() -> None:
    """A branch reads the context once more: over a long one only the chain is worth it."""
    offer = Offer((1, 2, 3), (ROOT, 0, ROOT), (0.5, 0.6, 0.3), ("a",) * 3)
    cost = StepCost({1: 1.0, 8: 1.1}, key=0.001)
    assert sorted(allocate([Wish(offer, 10)], Base(1, 1.0), cost)[0][0]) == [0, 1, 2]
    assert sorted(allocate([Wish(offer, 1000)], Base(1, 1.0), cost)[0][0]) == [0, 1]


@pytest.mark.parametrize("probability", [0.2, 0.3])
def test_a_whole_offer_is_drafted_whole_or_not_at_all(probability: float) -> None:
    offer = Offer((1, 2), (ROOT, ROOT), (probability, probability), ("a",) * 2, whole=True)
    cost = StepCost({1: 1.0, 3: 1.5})
    wish, base = Wish(offer, 1), Base(1, 1.0)
    expected = [0, 1] if 1.0 + 2 * probability > 1.5 else []
    assert allocate([wish], base, cost)[0] == [expected]


@given(st.integers(1, 200), st.integers(1, 200))
def test_more_rows_cost_no_less_where_none_were_seen_to(fewer: int, more: int) -> None:
    cost = StepCost({1: 1.0, 4: 1.5, 16: 2.0})
    assume(fewer <= more)
    assert cost.seconds(fewer) <= cost.seconds(more)


def test_costs_follow_the_steps() -> None:
    """A machine half as slow again as at the start, whose tokens cost something as well, with
    outliers now and then."""
    cost, draw = StepCost({1: 1.0, 8: 1.2, 32: 3.0}), random.Random(0)

    def true(rows: int, tokens: int) -> float:
        return 1.5 * StepCost({1: 1.0, 8: 1.2, 32: 3.0}).forward(rows) + 0.2 + 0.05 * tokens

    for _ in range(4000):
        rows = draw.choice([1, 4, 8, 20])
        plain = draw.random() < 0.5
        tokens = rows if plain else draw.randint(1, rows)
        noise = 10.0 if draw.random() < 0.01 else draw.gauss(1.0, 0.05)
        cost.note(rows, tokens, 0.0, true(rows, tokens) * noise, plain=plain)
    for rows, tokens in ((1, 1), (4, 2), (8, 8), (20, 5)):
        assert cost.seconds(rows, tokens) == pytest.approx(true(rows, tokens), rel=0.15)


def test_what_sequences_cost_is_not_taken_for_the_price_of_rows() -> None:
    """Of 32 sequences without drafts, each with work of its own: rows stay as cheap as measured."""
    cost = StepCost({1: 1.0, 32: 2.0, 64: 3.0})
    for _ in range(2000):
        cost.note(32, 32, 0.0, 5.0, plain=True)
    assert cost.seconds(32, 32) == pytest.approx(5.0, rel=0.05)
    assert 1.0 <= cost.forward(64) - cost.forward(32) < 1.6


def test_paths_cost_by_their_context() -> None:
    cost = StepCost({1: 1.0}, branch=0.1, key=0.01, context=10)
    assert cost.paths([10]) == 0.0
    assert cost.paths([10, 30]) == pytest.approx(0.4)
    cost.note(1, 1, cost.paths([10, 30]), 1.4, plain=False)
    assert cost.seconds(1) == pytest.approx(1.0)


@given(st.floats(0.1, 0.9), st.floats(0.1, 0.9), st.integers(1, 3), st.integers(0, 99))
def test_corrections_find_the_true_acceptance(
    said: float, true: float, depth: int, seed: int
) -> None:
    acceptance, draw = Acceptance(decay=0.995), random.Random(seed)
    for _ in range(3000):
        acceptance.note(depth, said, draw.random() < true)
    assert said * acceptance.correction(depth) == pytest.approx(true, abs=0.15)


def test_a_sequence_learns_quickly_and_starts_from_the_others() -> None:
    everybody = Acceptance(decay=0.995, weight=8.0)
    for _ in range(200):
        everybody.note(1, 0.5, False)
    own = Acceptance(everybody)
    assert own.correction(1) < 0.2
    for _ in range(8):
        own.note(1, 0.5, True)
    assert own.correction(1) > 1.0


def test_only_what_came_true_is_judged_further() -> None:
    """Depth 2 is a trial only where depth 1 was right; beyond the tokens nothing is known."""
    offer = Offer((1, 2, 5), (ROOT, 0, 1), (0.5, 0.5, 0.5), ("a",) * 3)
    wrong, right = Acceptance(), Acceptance()
    wrong.judge(offer, [9, 2, 5])
    assert wrong.correction(1) < 1.0 == wrong.correction(2)
    right.judge(offer, [1, 2])
    assert right.correction(1) > 1.0 < right.correction(2)
    assert right.correction(3) == 1.0
    assert all(p <= 1.0 for p in right.corrected(offer).probabilities)


@given(
    measured=st.dictionaries(st.integers(1, 64), st.floats(0.1, 9.0), min_size=1, max_size=8),
    rows=st.integers(1, 80),
    count=st.integers(0, 60),
)
def test_many_row_counts_at_once_cost_what_each_costs(
    measured: dict[int, float], rows: int, count: int
) -> None:
    cost = StepCost(measured)
    each = [cost.forward(rows + more) for more in range(count + 1)]
    assert cost.forwards(rows, count) == pytest.approx(each)
