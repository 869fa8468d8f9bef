"""The static tree chooser against all trees there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.bench.static_trees import Ranks, best_static, most_frequent, visits

_PATHS = [(a,) for a in range(3)] + [(a, b) for a in range(3) for b in range(3)]
places = st.lists(st.lists(st.integers(0, 2), max_size=2).map(tuple), min_size=1, max_size=40)


def trees(nodes: int) -> Iterator[tuple[Ranks, ...]]:
    for tree in combinations(_PATHS, nodes):
        if all(len(path) == 1 or path[:-1] in tree for path in tree):
            yield tree


def accepted(tree: Iterable[Ranks], at: Sequence[Ranks]) -> int:
    known = set(tree)
    return sum(place[:depth] in known for place in at for depth in range(1, len(place) + 1))


@given(places, st.integers(1, 4))
def test_no_tree_of_its_size_is_accepted_deeper(at: list[Ranks], nodes: int) -> None:
    chosen = most_frequent(at, nodes)
    assert len(chosen) <= nodes
    assert all(len(path) == 1 or path[:-1] in chosen for path in chosen)
    assert accepted(chosen, at) == max(accepted(tree, at) for tree in trees(nodes))


@given(st.lists(places, min_size=1, max_size=3), st.integers(1, 4))
def test_choosing_anew_never_takes_more_passes(texts: list[list[Ranks]], nodes: int) -> None:
    def passes(tree: list[Ranks]) -> int:
        return sum(len(visits(text, tree)) for text in texts)

    first = most_frequent([place for text in texts for place in text], nodes)
    chosen = best_static(texts, nodes)
    assert passes(chosen) <= passes(first)
    assert all(len(path) == 1 or path[:-1] in chosen for path in chosen)


def test_a_draft_begins_behind_what_the_last_one_brought() -> None:
    text: list[Ranks] = [(0, 1, 0), (5,), (0,), (0, 0), (0, 0), ()]
    assert visits(text, [(0,), (0, 1)]) == [0, 3, 5]
    assert visits(text, []) == [0, 1, 2, 3, 4, 5]


def test_other_places_ask_for_another_tree() -> None:
    """The frequent rank 1 lies where no draft begins once rank 0 is followed all the way."""
    text: list[Ranks] = [(0, 0), (1,), (1,)] * 20 + [(2,), (2,)]
    assert most_frequent(text, 3)[0] == (1,)
    assert set(best_static([text], 3)) == {(0,), (0, 0), (2,)}
