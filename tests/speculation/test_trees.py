"""Draft trees, who draws them, and how they are walked."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.speculation import medusa, prompt_lookup
from lorax_spec.speculation.prompt_lookup import LONGEST_MATCH, LookupIndex
from lorax_spec.speculation.tree import ROOT, DraftTree, chain
from lorax_spec.speculation.verify import At, verify

tokens_lists = st.lists(st.integers(0, 3), max_size=40)


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


def _searched(tokens: Sequence[int], count: int) -> list[int]:
    """The same rule by plain search: longest suffix, latest earlier occurrence."""
    for n in range(min(LONGEST_MATCH, len(tokens)), 0, -1):
        suffix = list(tokens[-n:])
        for start in range(len(tokens) - n - 1, -1, -1):
            if list(tokens[start : start + n]) == suffix:
                found = list(tokens[start + n :])
                return list(itertools.islice(itertools.cycle(found), count))
    return []


@given(tokens_lists, st.integers(1, 8), st.lists(st.integers(1, 5), max_size=8))
def test_lookup_finds_what_a_search_finds(tokens: list[int], count: int, steps: list[int]) -> None:
    index = LookupIndex()
    for length in itertools.accumulate(steps):
        index.extend(tokens[:length])
    tree = prompt_lookup.draft(index, tokens, count)
    assert list(tree.tokens) == _searched(tokens, count)
    assert tree.is_chain


@given(
    st.lists(
        st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4).map(
            lambda ps: sorted((math.log(p) for p in ps), reverse=True)
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(0, 30),
)
def test_medusa_trees_hold_the_likeliest_nodes(heads: list[list[float]], nodes: int) -> None:
    guesses = [list(enumerate(logprobs)) for logprobs in heads]
    tree = medusa.draft(guesses, nodes)
    if nodes <= len(heads):
        assert tree == chain([0] * nodes, medusa.DRAFTER)
        return
    every = {
        ranks: sum(heads[d][r] for d, r in enumerate(ranks))
        for depth in range(1, len(heads) + 1)
        for ranks in itertools.product(*(range(len(h)) for h in heads[:depth]))
    }
    values = sorted(
        (
            sum(heads[d][tree.tokens[n]] for d, n in enumerate(tree._path_to(node)))
            for node in range(len(tree))
        ),
        reverse=True,
    )
    best = sorted(every.values(), reverse=True)[:nodes]
    assert len(tree) == min(nodes, len(every))
    assert all(math.isclose(v, b, abs_tol=1e-9) for v, b in zip(values, best, strict=True))
