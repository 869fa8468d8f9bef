"""Prompt lookup as a drafter: many sequences, scopes, and what it lets go of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.engine.drafting.drafter import Turn
from lorax_spec.engine.drafting.lookup import PromptLookupDrafter
from lorax_spec.engine.sequence import Sequence
from lorax_spec.speculation.offer import NOTHING, Offer
from lorax_spec.types import AdapterRef
from tests.engine.sequences import sequence

ADAPTER = AdapterRef("demo/a", "hub", "1", "secret")


def asked(drafter: PromptLookupDrafter, *sequences: Sequence, nodes: int = 4) -> list[Offer]:
    return drafter.offer([Turn(each, torch.empty(0), nodes, nodes) for each in sequences])


def scoped(tokens: list[int], adapter: AdapterRef | None, identity: str = "") -> Sequence:
    one = sequence(tokens, identity=identity)
    one.request = replace(one.request, adapter=adapter)
    return one


def test_every_turn_has_its_own_offer() -> None:
    drafter = PromptLookupDrafter()
    repeating, new, none = sequence([1, 2, 1]), sequence([3, 4, 5]), sequence([6, 6])
    first, second, third = asked(drafter, repeating, new, none)
    assert first.tokens[:1] == (2,)
    assert second == NOTHING
    assert third.tokens[:1] == (6,)
    assert set(first.drafters) == {drafter.name}


def test_offers_follow_a_sequence_that_grows() -> None:
    drafter = PromptLookupDrafter()
    growing = sequence([1, 2, 3])
    assert asked(drafter, growing) == [NOTHING]
    growing.tokens += [1, 2]
    assert asked(drafter, growing)[0].tokens[:2] == (3, 1)


def test_matches_have_the_lengths_that_are_set() -> None:
    drafter = PromptLookupDrafter(min_match=3)
    assert asked(drafter, sequence([1, 2, 9, 1, 2])) == [NOTHING]
    assert asked(drafter, sequence([1, 2, 3, 9, 1, 2, 3]))[0].tokens[:1] == (9,)


def test_a_reference_is_searched() -> None:
    one = sequence([7, 2])
    one.request = replace(one.request, reference=(1, 2, 3, 4))
    assert asked(PromptLookupDrafter(), one)[0].tokens == (3, 4)


def test_nothing_is_remembered_without_a_pool() -> None:
    drafter = PromptLookupDrafter()
    ended = sequence([1, 2, 3, 4])
    asked(drafter, ended)
    drafter.forget(ended)
    drafter.forget(ended)
    assert drafter._lookups == {}
    assert asked(drafter, sequence([9, 2])) == [NOTHING]


def test_the_pool_shows_what_finished_requests_of_the_same_scope_said() -> None:
    drafter = PromptLookupDrafter(pool_tokens=1000)
    ended = scoped([1, 2], ADAPTER)
    asked(drafter, ended)
    ended.tokens += [3, 4]
    drafter.forget(ended)
    assert asked(drafter, scoped([9, 2], ADAPTER))[0].tokens == (3, 4)


@pytest.mark.parametrize(
    "other",
    [
        None,
        replace(ADAPTER, api_token="another"),
        replace(ADAPTER, api_token=""),
        replace(ADAPTER, revision="2"),
        replace(ADAPTER, source="s3"),
        replace(ADAPTER, adapter_id="demo/b"),
    ],
)
def test_the_pool_shows_nothing_to_another_scope(other: AdapterRef | None) -> None:
    drafter = PromptLookupDrafter(pool_tokens=1000)
    ended = scoped([1, 2, 3, 4], ADAPTER)
    asked(drafter, ended)
    drafter.forget(ended)
    assert asked(drafter, scoped([9, 2], other)) == [NOTHING]
    assert asked(drafter, scoped([9, 2], ADAPTER, "other weights")) == [NOTHING]
    assert asked(drafter, scoped([9, 2], ADAPTER)) != [NOTHING]


adapters = st.none() | st.builds(
    AdapterRef,
    st.sampled_from(["a", "b"]),
    st.sampled_from(["", "hub"]),
    st.sampled_from(["", "1"]),
    st.sampled_from(["", "mine", "yours"]),
)
scopes = st.tuples(adapters, st.sampled_from(["", "weights"]))


@given(
    st.lists(st.tuples(scopes, st.lists(st.integers(0, 3), min_size=2, max_size=12)), max_size=9)
)
def test_no_text_is_seen_from_another_scope(
    finished: list[tuple[tuple[AdapterRef | None, str], list[int]]],
) -> None:
    """What each scope's offers copy from others carries the number of that scope."""
    drafter = PromptLookupDrafter(pool_tokens=1000)
    numbers: dict[object, int] = {}
    for scope, text in finished:
        number = numbers.setdefault(scope, len(numbers) + 1)
        shared, own = text, [100 * number + token for token in text]
        mixed = [token for pair in zip(shared, own, strict=True) for token in pair]
        one = scoped([*mixed, text[0]], *scope)
        offer = asked(drafter, one, nodes=8)[0]
        assert all(token < 10 or token // 100 == number for token in offer.tokens)
        drafter.forget(one)
