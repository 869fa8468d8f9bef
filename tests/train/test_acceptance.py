from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.train.acceptance import (
    Guesses,
    Output,
    acceptance,
    accepted_and_steps,
    draft,
    generate,
    guess,
    loops,
)
from lorax_spec.train.data import TokenStream
from lorax_spec.train.evaluate import held_out_figures
from lorax_spec.train.heads import MedusaHeads
from lorax_spec.train.loop import last_hidden


@st.composite
def one_place(draw: st.DrawFn) -> Guesses:
    heads, width = draw(st.integers(1, 3)), 4
    probabilities = [
        sorted(draw(st.lists(st.floats(0.01, 0.3), min_size=width, max_size=width)), reverse=True)
        for _ in range(heads)
    ]
    return Guesses([[list(range(10 * h, 10 * h + width)) for h in range(heads)]], [probabilities])


@given(one_place(), st.integers(1, 30))
def test_the_tree_is_the_best_one(guesses: Guesses, nodes: int) -> None:
    ids, probabilities = guesses.ids[0], guesses.probabilities[0]
    scores = {}
    for depth in range(1, len(ids) + 1):
        for ranks in itertools.product(range(4), repeat=depth):
            path = tuple(ids[d][r] for d, r in enumerate(ranks))
            scores[path] = math.prod(probabilities[d][r] for d, r in enumerate(ranks))
    chosen = draft(guesses, 0, nodes)
    assert len(chosen) == min(nodes, len(scores))
    assert all(len(path) == 1 or path[:-1] in chosen for path in chosen)
    best = sorted(scores.values(), reverse=True)[: len(chosen)]
    assert math.isclose(math.fsum(scores[p] for p in chosen), math.fsum(best), rel_tol=1e-9)


def guesses_for(tokens: list[int], heads: int, right: bool) -> Guesses:
    """Heads that always know, or never know, what comes."""
    shift = 0 if right else 1
    padded = tokens + [0] * (heads + 1)
    ids = [
        [[padded[i + 1 + h] + shift, *range(100, 107)] for h in range(heads)]
        for i in range(len(tokens))
    ]
    return Guesses(ids, [[[0.5] + [0.01] * 7] * heads] * len(tokens))


@given(st.lists(st.integers(0, 50), min_size=2, max_size=60), st.integers(1, 4))
def test_every_token_is_accepted_or_costs_a_step(tokens: list[int], heads: int) -> None:
    accepted, steps = accepted_and_steps(guesses_for(tokens, heads, True), tokens, 0)
    assert accepted + steps in (len(tokens) - 1, len(tokens))
    assert steps == math.ceil((len(tokens) - 1) / (heads + 1))
    assert accepted_and_steps(guesses_for(tokens, heads, False), tokens, 0) == (
        0,
        len(tokens) - 1,
    )


def test_loops_are_told_from_text() -> None:
    assert loops([7, 8, 9] * 20)
    assert loops([*range(100), *[5] * 60])
    assert not loops(list(range(200)))
    assert not loops([1, 1, 1])


def test_generated_outputs_are_the_model_s_own(tiny_model: Any) -> None:
    prompts = [[5, 6, 7], [9, 10, 11, 12, 13], [20]]
    outputs = generate(tiny_model, prompts, temperature=0.0, new_tokens=12, batch_size=2)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert output.prompt == prompt
        ids = torch.tensor([prompt + output.tokens[:-1]])
        greedy = tiny_model(ids).logits[0, len(prompt) - 1 :].argmax(-1).tolist()
        assert output.tokens == greedy
    sampled = [
        generate(tiny_model, prompts, temperature=1.5, new_tokens=12, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert sampled[0] == sampled[1] != sampled[2]


def test_guesses_stand_at_the_place_of_the_token_before(tiny_model: Any) -> None:
    """At place i the base gives token i; a fresh head, being the base, then guesses token i."""
    (output,) = generate(tiny_model, [[5, 6, 7]], temperature=0.0, new_tokens=10)
    guesses = guess(tiny_model, MedusaHeads(32, 1), output)
    assert [heads[0][0] for heads in guesses.ids] == output.tokens


def test_short_and_looping_outputs_do_not_count(tiny_model: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(4, 64, (60,), generator=generator).tolist()
    outputs = [Output([5], [9] * 60), Output([5], [4, 5]), Output([5], text)]
    found = acceptance(tiny_model, MedusaHeads(32, 2), outputs)
    assert (found.outputs, found.looping) == (1, 1)
    assert set(found.per_step) == {"chain", "tree 8", "tree 16"}


def test_top_k_accuracy_is_that_of_a_plain_count(tiny_model: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 64, (90,), generator=generator, dtype=torch.int32)
    figures = held_out_figures(
        tiny_model, MedusaHeads(32, 2), TokenStream.of(ids), windows=1, length=80
    )
    hidden = last_hidden(tiny_model, ids[None, :80].long())[0]
    logits = tiny_model.get_output_embeddings()(hidden)
    for row in range(3):
        top = logits.topk(10).indices == ids[row + 1 : row + 81, None]
        expected = [float(top[:, :k].any(1).float().mean()) for k in range(1, 11)]
        assert figures.top[row] == expected or all(
            math.isclose(a, b, abs_tol=1e-6)
            for a, b in zip(figures.top[row], expected, strict=True)
        )
