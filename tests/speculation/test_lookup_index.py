"""The lookup index against plain search."""

from __future__ import annotations

import random
import sys
import tracemalloc
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.speculation.lookup_index import BORDER, LookupIndex
from lorax_spec.speculation.lookup_pool import LookupPool

UNBOUNDED = sys.maxsize
texts = st.lists(st.integers(0, 3), max_size=40)
documents = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=20), min_size=1, max_size=4)


def occurrences(text: Sequence[int], shortest: int, longest: int) -> list[tuple[int, int]]:
    """Every earlier place where the text's end stood, longest and latest first, by search."""
    found = []
    for end in range(len(text) - 1):
        length = 0
        while (
            length < longest and text[end - length] == text[-1 - length] != BORDER and length <= end
        ):
            length += 1
        if length >= shortest:
            found.append((length, end + 1))
    return sorted(found, reverse=True)


@given(documents, st.integers(1, 4), st.integers(0, 12))
def test_the_longest_matches_are_found_and_the_latest_first(
    parts: list[list[int]], shortest: int, more: int
) -> None:
    longest = shortest + more
    index = LookupIndex(shortest, longest, UNBOUNDED)
    for number, part in enumerate(parts):
        if number:
            index.begin()
        index.extend(part)
    searched = occurrences(index.text, shortest, longest)
    found = index.matches(index.text)
    assert found == searched[: len(found)]
    pairs = sum(length > 1 for length, _ in searched)
    assert len(found) >= pairs
    if shortest == 1 and pairs < 3:
        assert found == searched


@given(texts, st.integers(1, 3))
def test_a_bounded_search_takes_the_latest_occurrences(text: list[int], breadth: int) -> None:
    index = LookupIndex(2, 16, breadth)
    index.extend(text)
    found = index.matches(index.text) if text else []
    latest = sorted((start for _, start in occurrences([BORDER, *text], 2, 16)), reverse=True)
    assert sorted((start for _, start in found), reverse=True) == latest[:breadth]


@given(documents, st.data())
def test_an_index_that_grew_equals_one_built_at_once(
    parts: list[list[int]], data: st.DataObject
) -> None:
    at_once, grown = LookupIndex(), LookupIndex()
    for part in parts:
        at_once.begin()
        at_once.extend(part)
        grown.begin()
        while part:
            count = data.draw(st.integers(1, len(part)))
            grown.extend(part[:count])
            part = part[count:]
    assert vars(at_once) == vars(grown)


@given(documents, st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_another_text_finds_what_it_would_find_as_the_last_document(
    parts: list[list[int]], tail: list[int]
) -> None:
    index, joined = LookupIndex(), LookupIndex()
    for part in parts:
        for each in (index, joined):
            each.extend(part)
            each.begin()
    size = len(index)
    joined.extend(tail)
    found = index.matches([BORDER, *tail])
    assert all(start < size for _, start in found)
    inside = [match for match in occurrences(joined.text, 2, 16) if match[1] < size]
    assert {m for m in found if m[0] > 1} <= set(inside)
    assert bool(inside) == any(length > 1 for length, _ in found)


def test_a_token_takes_less_than_200_bytes() -> None:
    """Of random text, whose pairs are nearly all different: the worst there is."""
    source = random.Random(0)
    texts = [[source.randrange(100_000) for _ in range(4000)] for _ in range(8)]
    tracemalloc.start()
    try:
        indices = []
        for text in texts:
            index = LookupIndex()
            index.extend(text)
            indices.append(index)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / sum(map(len, texts)) < 200


@given(st.lists(st.tuples(st.integers(0, 5), texts), max_size=30), st.integers(0, 60))
def test_a_pool_shows_a_scope_its_own_texts_and_holds_no_more_than_it_may(
    finished: list[tuple[int, list[int]]], most: int
) -> None:
    """Every scope's texts are made of tokens of its own, so that any leak would show."""
    pool = LookupPool(most, scopes=3)
    for scope, text in finished:
        pool.remember(scope, [10 * scope + token for token in text])
        held = {number: pool.of(number) for number in range(6)}
        assert sum(map(bool, held.values())) <= 3
        for number, indices in held.items():
            assert sum(map(len, indices)) <= most
            seen = {token for index in indices for token in index.text} - {BORDER}
            assert seen <= set(range(10 * number, 10 * number + 4))
    assert len(pool) <= 3 * most


def test_a_pool_forgets_its_older_generation() -> None:
    pool = LookupPool(40)
    for number in range(10):
        pool.remember("scope", [number] * 8)
    seen = {token for index in pool.of("scope") for token in index.text} - {BORDER}
    assert 9 in seen
    assert 0 not in seen
