"""Lookahead's window and n-gram pool."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.speculation.lookahead import (
    KINDS,
    LATER,
    PAIR,
    SINGLE,
    WINDOW,
    Guessed,
    Luck,
    Shape,
    Window,
    guesses,
    shape_for,
)
from lorax_spec.speculation.ngram_pool import Continuation, NgramPool
from lorax_spec.speculation.offer import SUREST
from lorax_spec.speculation.tree import ROOT, DraftTree

few_tokens = st.integers(0, 3)
texts = st.lists(few_tokens, max_size=60)
shapes = st.builds(Shape, st.integers(1, 8), st.integers(2, 6))


def _searched(text: list[int], count: int, length: int) -> list[tuple[int, ...]]:
    """What followed the last ``count`` tokens of ``text``, by plain search, latest first."""
    found: list[tuple[int, ...]] = []
    for start in range(len(text) - length, count - 1, -1):
        if text[start - count : start] == text[-count:]:
            following = tuple(text[start : start + length])
            if following not in found:
                found.append(following)
    return found


@given(texts, st.integers(1, 4), st.lists(st.integers(1, 9), max_size=20))
def test_the_pool_finds_what_a_search_finds(text: list[int], length: int, ends: list[int]) -> None:
    """However many tokens come at a time."""
    pool = NgramPool(length, width=1000)
    for end in itertools.accumulate(ends):
        pool.read(text[:end])
    pool.read(text)
    pair, single = pool.after(text)
    assert pair == (_searched(text, 2, length) if len(text) > 1 else [])
    expected = _searched(text, 1, length) if text else []
    assert single == [one for one in expected if one not in pair]


@given(texts, st.integers(1, 3), st.integers(1, 9), st.integers(1, 3))
def test_the_pool_is_bounded(text: list[int], length: int, keys: int, width: int) -> None:
    pool = NgramPool(length, keys=keys, width=width)
    for end in range(len(text)):
        pool.read(text[:end])
        assert len(pool) <= keys * width


def test_the_longest_unused_beginning_leaves_first() -> None:
    pool = NgramPool(1, keys=2)
    for token in (1, 2, 1, 3):
        pool.add([token], [token + 10])
    assert [pool.after([token])[1] for token in (1, 2, 3)] == [[(11,)], [], [(13,)]]


def test_the_pool_refuses_other_lengths() -> None:
    with pytest.raises(ValueError, match="3 tokens, not 2"):
        NgramPool(2).add([1], [1, 2, 3])
    with pytest.raises(ValueError, match="positive"):
        NgramPool(0)


def _window(shape: Shape, last: int, tokens: st.DataObject) -> Window:
    return Window(shape, last, lambda: tokens.draw(few_tokens))


def _check(tree: Guessed, nodes: int, depth: int) -> DraftTree:
    draft = DraftTree(tree.tokens, tree.parents, ("test",) * len(tree.tokens))
    assert len(draft) <= nodes
    assert max(draft.depths, default=0) <= depth
    assert all(ROOT <= parent < node for node, parent in enumerate(tree.parents))
    assert len(set(zip(tree.parents, tree.tokens, strict=True))) == len(draft)
    assert all(0 <= kind < KINDS for kind in tree.kinds)
    return draft


@given(
    shapes,
    texts.filter(bool),
    st.integers(0, 63),
    st.integers(0, 20),
    st.lists(st.integers(1, 4), max_size=12),
    st.data(),
)
def test_any_window_gives_a_tree_within_its_bounds(
    shape: Shape, text: list[int], nodes: int, depth: int, steps: list[int], data: st.DataObject
) -> None:
    """And it stays a window whatever is chosen at its ends and however the sequence goes on."""
    window = _window(shape, 0, data)
    pool = NgramPool(shape.ngram - 1)
    pool.read(text)
    for count in [*steps, 1]:
        heights = {len(column) for column in window.columns}
        assert len(window.columns) == shape.columns
        assert len(heights) == 1
        assert max(heights) <= shape.ngram - 1
        tree = guesses(window, text, pool.after, Luck(), nodes, depth)
        draft = _check(tree, nodes, depth)
        ends = window.leaves(draft)
        if nodes * 3 // 4 >= shape.nodes and depth >= shape.columns + shape.ngram:
            assert None not in ends
        if any(end is not None for end in ends):
            choices = [None if end is None else data.draw(few_tokens) for end in ends]
            count -= window.grow(choices)
        last = data.draw(few_tokens)
        window.move(count, last)
        assert window.columns[0][0] == last


def _nothing(beginning: Sequence[int]) -> tuple[list[Continuation], list[Continuation]]:
    return [], []


def _grown(shape: Shape) -> Window:
    """A window in which no two tokens are equal: column ``i`` holds 100 i, 100 i + 1 ..."""
    window = Window(shape, 0, lambda: 0)
    window.columns = [[100 * i + j for j in range(shape.ngram - 1)] for i in range(shape.columns)]
    return window


@given(shapes)
def test_a_column_sees_the_beginnings_before_it_and_itself(shape: Shape) -> None:
    """The paper's attention pattern, and as many nodes as it says."""
    window = _grown(shape)
    tree = guesses(window, [0], _nothing, Luck(), 10 * shape.nodes + 10, 100)
    draft = _check(tree, shape.nodes, 100)
    assert len(draft) == shape.nodes
    for index, end in enumerate(window.leaves(draft)):
        way: list[int] = []
        node = end
        while node is not None and node != ROOT:
            way.insert(0, tree.tokens[node])
            node = tree.parents[node]
        beginnings = [100 * i for i in range(1, index + 1)]
        assert way == beginnings + window.columns[index][1:]


@given(shapes, st.integers(1, 9))
def test_a_full_window_drops_its_oldest_level(shape: Shape, came: int) -> None:
    """Columns keep their place in the text: after one token column ``i`` is column ``i``, begun a
    token later; after more, the columns in front have been passed."""
    window = _grown(shape)
    before = window.columns
    choices = [100 * i + 99 for i in range(shape.columns)]
    assert window.grow(choices)
    window.move(came - 1, 7)
    expected = [[*column[1:], choice] for column, choice in zip(before, choices, strict=True)]
    kept = expected[came - 1 :]
    fresh = [[0] * (shape.ngram - 1)] * min(came - 1, shape.columns)
    columns = kept + fresh
    columns[0] = [7, *columns[0][1:]]
    assert window.columns == columns


def test_likelier_n_grams_come_first() -> None:
    """The window's part of the room is its own; what it shares with n-grams is left to others."""

    def follow(text: Sequence[int]) -> tuple[list[Continuation], list[Continuation]]:
        return ([(1, 2), (1, 3)], [(4, 5), (6, 7)]) if list(text) == [8, 0] else ([], [])

    window = _grown(Shape(2, 3))
    assert window.columns == [[0, 1], [100, 101]]
    tree = guesses(window, [8, 0], follow, Luck(), 9, 9)
    _check(tree, 9, 9)
    assert tree.tokens == (1, 2, 3, 4, 5, 6, 100, 101, 7)
    assert tree.parents == (ROOT, 0, 0, ROOT, 3, ROOT, ROOT, 6, 5)
    assert tree.kinds == (
        *(PAIR, PAIR + LATER, PAIR + 1 + LATER),
        *(SINGLE, SINGLE + LATER, SINGLE + 1),
        *(WINDOW, WINDOW + LATER, SINGLE + 1 + LATER),
    )


@given(texts, st.integers(1, 30), st.integers(1, 30))
def test_n_grams_go_on_where_others_end(text: list[int], nodes: int, depth: int) -> None:
    """A text that repeats is drafted as far as there is room, however short its n-grams."""
    pool = NgramPool(2)
    verse = [10, 11, 12, 13, 14]
    pool.read([*text, *verse, *verse])
    window = _grown(Shape(1, 2))
    tree = guesses(window, [*text, *verse, *verse], pool.after, Luck(), nodes, depth)
    draft = _check(tree, nodes, depth)
    expected = (verse * 6)[: min(nodes, depth)]
    node: int | None = ROOT
    for token in expected:
        assert node is not None
        node = draft.child(node, token)
    assert node is not None


def test_luck_becomes_what_happens() -> None:
    """Four of five first guesses are right, none that follows one, and one of the others."""
    luck = Luck()
    tree = Guessed((1, 2, 3), (ROOT, 0, ROOT), (PAIR, PAIR + LATER, SINGLE))
    for turn in range(1000):
        tree.judge([3] if turn % 5 == 0 else [1, 9], luck)
    offer = tree.offer(luck, "lookahead")
    assert offer.whole
    assert offer.probabilities == pytest.approx((0.8, 0.0, 0.2), abs=0.04)
    assert sum(offer.probabilities[::2]) <= SUREST + 1e-9


@given(st.integers(1, 63))
def test_the_window_leaves_half_to_n_grams(nodes: int) -> None:
    shape = shape_for(nodes)
    assert shape.columns >= 1
    assert nodes < 4 or shape.nodes <= nodes // 2
    assert len(guesses(_grown(shape), [0], _nothing, Luck(), nodes, 99).tokens) <= nodes
