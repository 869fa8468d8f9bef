"""Draft trees, who draws them, and how they are walked."""

import itertools
import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.speculation import medusa
from lorax_spec.speculation.tree import ROOT, DraftTree
from lorax_spec.speculation.verify import At, verify


@st.composite
def trees(draw: st.DrawFn) -> DraftTree:
    parents: list[int] = []
    tokens: list[int] = []
    for node in range(draw(st.integers(0, 12))):
        parent = draw(st.integers(ROOT, node - 1))
        token = draw(st.integers(0, 3))
        if (parent, token) not in zip(parents, tokens, strict=True):
            parents.append(parent)
            tokens.append(token)
        if len(parents) != node + 1:
            break
    return DraftTree(tuple(tokens), tuple(parents), ("test",) * len(tokens))


@given(trees())
def test_paths_hold_every_node_from_root_to_leaf(tree: DraftTree) -> None:
    assert set(itertools.chain(*tree.paths)) == set(range(len(tree)))
    for path in tree.paths:
        assert [tree.parents[node] for node in path] == [ROOT, *path[:-1]]
        assert [tree.depths[node] for node in path] == list(range(1, len(path) + 1))


@dataclass(frozen=True)
class Step:
    token: int
    ends: bool


@given(st.lists(trees(), max_size=4), st.data())
def test_a_walk_chooses_what_decoding_without_drafts_chooses(
    drafts: list[DraftTree], data: st.DataObject
) -> None:
    """The draft decides how far a walk gets, never what it chooses."""
    texts = [data.draw(st.lists(st.integers(0, 3), min_size=14, max_size=14)) for _ in drafts]
    end = data.draw(st.integers(0, 3))
    calls: list[list[int]] = [[] for _ in drafts]

    def choose(places: list[At]) -> list[Step]:
        chosen = []
        for place in places:
            depth = 0 if place.node == ROOT else drafts[place.tree].depths[place.node]
            assert depth == len(calls[place.tree])
            calls[place.tree].append(depth)
            token = texts[place.tree][depth]
            chosen.append(Step(token, token == end))
        return chosen

    for tree, text, walk in zip(drafts, texts, verify(drafts, choose), strict=True):
        chosen = [choice.token for choice in walk.choices]
        assert chosen == text[: len(chosen)]
        assert len(walk.nodes) == len(chosen) - 1
        assert [tree.tokens[node] for node in walk.nodes] == chosen[:-1]
        assert end not in chosen[:-1]
        node = walk.nodes[-1] if walk.nodes else ROOT
        assert walk.choices[-1].ends or tree.child(node, chosen[-1]) is None


heads = st.lists(
    st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4).map(
        lambda ps: list(enumerate(sorted(ps, reverse=True)))
    ),
    min_size=1,
    max_size=3,
)


def likelihoods(heads: list[list[tuple[int, float]]]) -> dict[tuple[int, ...], float]:
    """Of every path of ranks that the heads can give."""
    return {
        ranks: math.prod(heads[d][r][1] for d, r in enumerate(ranks))
        for depth in range(1, len(heads) + 1)
        for ranks in itertools.product(*(range(len(h)) for h in heads[:depth]))
    }


@given(heads, st.integers(0, 30))
def test_medusa_trees_hold_the_likeliest_nodes(
    heads: list[list[tuple[int, float]]], nodes: int
) -> None:
    """A head's guess is its rank here."""
    offer = medusa.best_first(heads, nodes, "medusa")
    every = likelihoods(heads)
    best = sorted(every.values(), reverse=True)[:nodes]
    assert len(offer) == min(nodes, len(every))
    assert sorted(offer.reach, reverse=True) == pytest.approx(best)


@given(heads, st.sets(st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple), max_size=9))
def test_static_trees_are_as_chosen(
    heads: list[list[tuple[int, float]]], ends: set[tuple[int, ...]]
) -> None:
    choices = sorted({path[:n] for path in ends for n in range(1, len(path) + 1)})
    offer = medusa.static(heads, choices, "medusa")
    every = likelihoods(heads)
    draft = DraftTree(offer.tokens, offer.parents, offer.drafters)
    paths = [tuple(offer.tokens[n] for n in draft._path_to(i)) for i in range(len(offer))]
    assert sorted(paths) == [path for path in choices if path in every]
    assert offer.reach == pytest.approx([every[path] for path in paths])
