"""Any tree at all may be drafted: text, logprobs and cache are those of plain decoding.

Real drafters place the likely path first, where slots and positions agree; here the right path may
lie anywhere in the tree, so that finding its keys and moving them is tried too.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.sequence import Sequence
from lorax_spec.speculation.tree import ROOT, DraftTree, chain
from lorax_spec.types import FinishReason
from tests.conformance.running import Outcome, run
from tests.engine.conftest import NewRequest
from tests.engine.reference import reference
from tests.engine.watch import drafting

Prompts = dict[str, list[tuple[int, ...]]]


def oracle_tree(path: list[int], wrong: list[int], order: list[int]) -> DraftTree:
    """A tree that holds ``path`` from the root among wrong guesses.

    ``wrong[i]`` hangs a wrong node at depth ``wrong[i]`` of the path; ``order`` picks, again and
    again, which node whose parent is placed comes next.
    """
    # (name, parent's name, token): the path's nodes are named 0, 1, ..., wrong ones -2, -3, ...
    waiting = [(i, i - 1, token) for i, token in enumerate(path)]
    waiting += [(-2 - i, at - 1, 3000 + i) for i, at in enumerate(wrong)]
    placed: dict[int, int] = {-1: ROOT}
    tokens: list[int] = []
    parents: list[int] = []
    turn = 0
    while waiting:
        able = [node for node in waiting if node[1] in placed]
        name, parent, token = node = able[order[turn % len(order)] % len(able)]
        waiting.remove(node)
        placed[name] = len(tokens)
        tokens.append(token)
        parents.append(placed[parent])
        turn += 1
    return DraftTree(tuple(tokens), tuple(parents), ("oracle",) * len(tokens))


def said(outcome: Outcome) -> list[tuple[int, float]]:
    return [(token.id, token.logprob) for token in outcome.tokens]


@dataclass(frozen=True)
class Shape:
    """How many guesses are right, and where the wrong ones and the nodes of the tree lie."""

    right: int
    wrong: list[int]
    order: list[int]


shapes = st.builds(
    Shape,
    right=st.integers(0, 6),
    wrong=st.lists(st.integers(0, 6), max_size=6),
    order=st.lists(st.integers(0, 9), min_size=1, max_size=4),
)


@pytest.mark.slow
@settings(max_examples=20)
@given(
    which=st.integers(0, 2),
    adapter=st.sampled_from([None, "pirate"]),
    drawn=st.lists(shapes, min_size=1, max_size=4),
)
def test_the_right_path_may_lie_anywhere_in_a_tree(
    core: EngineCore,
    quick: EngineCore,
    prompts: Prompts,
    new_request: NewRequest,
    which: int,
    adapter: str | None,
    drawn: list[Shape],
) -> None:
    prompt, steps = prompts["rename"][which][:63], itertools.cycle(drawn)
    plain = run(core, [new_request(prompt, 14, adapter=adapter)])[0]

    def draft(sequence: Sequence) -> DraftTree:
        shape = next(steps)
        path = [*plain.ids[sequence.generated :][: shape.right], 3999][: sequence.draft_room]
        return oracle_tree(path, [min(at, len(path) - 1) for at in shape.wrong], shape.order)

    with drafting(core, draft):
        drafted = run(core, [new_request(prompt, 14, adapter=adapter)])[0]
    assert said(drafted) == said(plain)
    assert drafted.reason == plain.reason
    with drafting(quick, draft):
        quickly = run(quick, [new_request(prompt, 14, adapter=adapter)])[0]
    assert quickly.ids == plain.ids
    for token, expected in zip(quickly.tokens, plain.tokens, strict=True):
        assert abs(token.logprob - expected.logprob) < 1e-4


def test_a_right_draft_needs_one_pass(
    core: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    prompt = prompts["rename"][0]
    plain = run(core, [new_request(prompt, 30)])[0]

    def all_of_it(sequence: Sequence) -> DraftTree:
        return chain(plain.ids[sequence.generated :][: sequence.draft_room], "oracle")

    with drafting(core, all_of_it):
        drafted = run(core, [new_request(prompt, 30)])[0]
    assert said(drafted) == said(plain)
    assert drafted.speculation.forward_passes == 2
    assert [token.drafter for token in drafted.tokens] == ["", *["oracle"] * 28, ""]


def test_nothing_follows_an_end_of_text_inside_a_draft(
    core: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    """Though the draft went on and the model might have agreed."""
    for prompt in prompts["write"]:
        plain = run(core, [new_request(prompt, 40)])[0]
        if plain.reason is FinishReason.EOS_TOKEN and len(plain.ids) > 2:
            break
    assert plain.reason is FinishReason.EOS_TOKEN
    on = run(core, [new_request(prompt, 40, ignore_eos_token=True)])[0]
    assert len(on.ids) == 40
    assert on.ids[: len(plain.ids)] == plain.ids

    def past_the_end(sequence: Sequence) -> DraftTree:
        return chain(on.ids[sequence.generated :][: sequence.draft_room], "oracle")

    with drafting(core, past_the_end):
        drafted = run(core, [new_request(prompt, 40)])[0]
        ignoring = run(core, [new_request(prompt, 40, ignore_eos_token=True)])[0]
    assert said(drafted) == said(plain)
    assert drafted.reason is FinishReason.EOS_TOKEN
    assert drafted.speculation.forward_passes == 2
    assert said(ignoring) == said(on)
    assert ignoring.speculation.forward_passes == 2


@torch.inference_mode()
def penalized(prompt: tuple[int, ...], output: list[int]) -> list[int]:
    """The best token at each place of ``output``: 1.1 repetition, 0.3 frequency, 0.2 presence."""
    logits = reference()(torch.tensor([[*prompt, *output]])).logits[0, len(prompt) - 1 : -1]
    best = []
    for index, row in enumerate(logits.double()):
        for token in {*prompt, *output[:index]}:
            row[token] = row[token] / 1.1 if row[token] > 0 else row[token] * 1.1
        for token, count in Counter(output[:index]).items():
            row[token] -= 0.3 * count + 0.2
        best.append(int(row.argmax()))
    return best


def test_penalties_see_the_drafted_prefix(
    core: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    """LoRAX's do not: accepted tokens then depend on the draft's length.  The tokens are also
    those of the formulas, over transformers' logits."""
    prompt = prompts["code"][0]
    options = {"repetition_penalty": 1.1, "frequency_penalty": 0.3, "presence_penalty": 0.2}
    plain = run(core, [new_request(prompt, 40, **options)])[0]
    assert plain.ids == penalized(prompt, plain.ids)
    assert len(set(plain.ids)) < 35, "the output repeats, so that its own counts matter"

    def all_of_it(sequence: Sequence) -> DraftTree:
        return chain(plain.ids[sequence.generated :][: sequence.draft_room], "oracle")

    with drafting(core, all_of_it):
        drafted = run(core, [new_request(prompt, 40, **options)])[0]
    assert said(drafted) == said(plain)
    assert drafted.speculation.forward_passes == 2
