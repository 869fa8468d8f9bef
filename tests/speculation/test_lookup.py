"""What prompt lookup offers, and how it learns from what came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.speculation.lookup_acceptance import DEPTHS, EARLIER, MatchAcceptance, match_kind
from lorax_spec.speculation.lookup_index import BORDER, LookupIndex
from lorax_spec.speculation.offer import NOTHING, Offer, best
from lorax_spec.speculation.prompt_lookup import PromptLookup
from lorax_spec.speculation.tree import ROOT

texts = st.lists(st.integers(0, 5), min_size=1, max_size=60)


def offered(
    text: list[int], nodes: int, depth: int | None = None, reference: tuple[int, ...] = ()
) -> Offer:
    lookup = PromptLookup(MatchAcceptance(), reference)
    lookup.extend(text)
    return lookup.offer(nodes, depth or nodes)


def paths(offer: Offer) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for parent, token in zip(offer.parents, offer.tokens, strict=True):
        found.append((*(found[parent] if parent != ROOT else ()), token))
    return found


@given(
    st.lists(texts, min_size=1, max_size=5),
    st.integers(0, 63),
    st.integers(0, 63),
    st.just([]) | texts,
)
def test_offers_are_trees_of_what_stood_there(
    parts: list[list[int]], nodes: int, depth: int, reference: list[int]
) -> None:
    """Through a whole life: no depth or size is exceeded, siblings differ and are worth at most
    one together, where anything matches something is offered, and without a reference, which may
    end, the draft has the size asked for."""
    lookup = PromptLookup(MatchAcceptance(), reference)
    text: list[int] = []
    for part in parts:
        text += part
        lookup.extend(text)
        offer = lookup.offer(nodes, depth)
        assert len(offer) <= 2 * nodes
        assert all(parent < node for node, parent in enumerate(offer.parents))
        found = paths(offer)
        assert len(set(found)) == len(found)
        assert all(len(path) <= depth for path in found)
        assert BORDER not in offer.tokens
        assert all(0 < probability <= 1 for probability in offer.probabilities)
        sums: dict[int, float] = {}
        for parent, probability in zip(offer.parents, offer.probabilities, strict=True):
            sums[parent] = sums.get(parent, 0.0) + probability
        assert all(total <= 1 + 1e-9 for total in sums.values())
        if nodes and depth >= nodes and text[-1] in text[:-1]:
            assert offer
            assert reference or len(best(offer, nodes)) == nodes


@given(st.lists(st.integers(0, 1000), unique=True, max_size=40), st.integers(1, 8))
def test_no_match_offers_nothing(text: list[int], nodes: int) -> None:
    assert offered(text, nodes) == NOTHING


def test_the_longest_match_comes_first() -> None:
    """After 2 3, 4 came once; after 1 2 3, 5 did, further back."""
    offer = offered([1, 2, 3, 5, 9, 2, 3, 4, 8, 1, 2, 3], 1)
    assert best(offer, 1).tokens == (5,)


def test_of_equally_long_matches_the_latest_comes_first() -> None:
    offer = offered([7, 2, 3, 5, 9, 8, 2, 3, 4, 6, 1, 1, 1, 1, 1, 1, 0, 2, 3], 1)
    assert best(offer, 1).tokens == (4,)


def test_distinct_continuations_are_branches() -> None:
    offer = offered([7, 2, 3, 5, 9, 8, 2, 3, 4, 6, 1, 2, 3], 4)
    assert {(5,), (4,), (4, 6)} <= set(paths(offer))


def test_agreeing_occurrences_make_a_continuation_likelier() -> None:
    chances = []
    for third in (5, 4):
        filler = [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30]
        text = [1, 2, 4, 10, 1, 2, third, 11, 1, 2, 5, 12, *filler, 1, 2]
        offer = offered(text, 2, 1)
        chances.append(dict(zip(offer.tokens, offer.probabilities, strict=True)))
    agreeing, split = chances
    assert agreeing[5] > split[5]
    assert split[4] > agreeing[4]


def test_a_text_that_repeats_is_read_on_in_itself() -> None:
    assert best(offered([9, 1, 2, 1, 2, 1], 5), 5).tokens == (2, 1, 2, 1, 2)


def test_a_reference_is_copied_up_to_its_end() -> None:
    offer = offered([40, 2, 3], 8, reference=(1, 2, 3, 4, 5))
    assert paths(offer) == [(4,), (4, 5)]


def test_matches_do_not_run_from_a_reference_into_the_text() -> None:
    """The end of the reference and the beginning of the text make no pair."""
    index = PromptLookup(MatchAcceptance(), (5, 6)).index
    index.extend([7, 8, 9, 6, 7])
    assert index.matches(index.text) == [(1, 5)]


def test_a_copy_goes_on_behind_a_change() -> None:
    """The source's 13 became 99, which never stood there before."""
    source = [10, 11, 12, 13, 14, 15, 16]
    offer = offered_step_by_step(source, [50, 10, 11, 12, 99])
    assert best(offer, 3).tokens == (14, 15, 16)


def test_what_was_replaced_once_is_replaced_again() -> None:
    source = [10, 11, 12, 77, 14, 15, 16, 17, 77, 18, 19]
    offer = offered_step_by_step(source, [50, 10, 11, 12, 98, 99, 14, 15, 16, 17])
    assert best(offer, 4).tokens == (98, 99, 18, 19)
    assert (77, 18) in paths(offer)


def offered_step_by_step(prompt: list[int], answer: list[int]) -> Offer:
    lookup = PromptLookup(MatchAcceptance())
    text = list(prompt)
    lookup.extend(text)
    for token in answer:
        lookup.offer(4, 4)
        text.append(token)
        lookup.extend(text)
    return lookup.offer(4, 4)


@pytest.mark.parametrize("right", [True, False])
def test_what_came_changes_how_likely_the_same_kind_of_match_is(right: bool) -> None:
    """Also for other sequences, though nothing was drafted."""
    acceptance = MatchAcceptance()
    before = [list(row) for row in acceptance.chances]
    for number in range(20):
        base = 100 * number
        lookup = PromptLookup(acceptance)
        text = [base + 1, base + 2, base + 3, *range(base + 20, base + 40), base + 1]
        lookup.extend(text)
        offer = lookup.offer(2, 2)
        assert offer.tokens == (base + 2, base + 3)
        text += [base + 2, base + 3] if right else [base + 50]
        lookup.extend(text)
        lookup.offer(2, 2)
    kind = match_kind(1, 3, EARLIER)
    after = acceptance.chances[kind]
    if right:
        assert after[0] > before[kind][0] + 0.2
        assert after[1] > before[kind][1] + 0.2
    else:
        assert after[0] < before[kind][0] - 0.15
        assert after[1:] == before[kind][1:]


def test_a_sequence_that_disappoints_is_trusted_less() -> None:
    """Beyond what its kind of match is worth for all."""
    acceptance = MatchAcceptance()
    unlucky = PromptLookup(acceptance)
    text = [1, 2, 3]
    for number in range(10):
        text += [*range(100 * number + 20, 100 * number + 32), 1]
        unlucky.extend(text)
        unlucky.offer(3, 3)
    newcomer = PromptLookup(acceptance)
    newcomer.extend(text)
    mine, others = unlucky.offer(1, 1), newcomer.offer(1, 1)
    assert mine.tokens == others.tokens
    assert mine.probabilities[0] < 0.95 * others.probabilities[0]


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 12))
def test_chances_stay_chances(came: list[bool], depth: int) -> None:
    acceptance = MatchAcceptance()
    for right in came:
        acceptance.learn(0, [1] * depth, [1] * (depth if right else depth - 1) + [2])
    assert len(acceptance.chances[0]) == DEPTHS
    assert all(0 < chance < 1 for chance in acceptance.chances[0])


def test_a_pool_is_asked_where_the_own_text_has_no_match_as_long() -> None:
    pool = LookupIndex()
    pool.extend([3, 4, 5, 6, 7])
    pool.begin()
    lookup = PromptLookup(MatchAcceptance())
    lookup.extend([5, 9, *range(20, 40), 3, 4, 5])
    assert best(lookup.offer(2, 2, [pool]), 2).tokens == (6, 7)
    lookup = PromptLookup(MatchAcceptance())
    lookup.extend([3, 4, 5, 9, *range(20, 40), 3, 4, 5])
    assert 6 not in lookup.offer(4, 4, [pool]).tokens
