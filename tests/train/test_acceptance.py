from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.kernels.noise import gumbel
from lorax_spec.train.acceptance import (
    Output,
    Paths,
    acceptance,
    accepted_and_steps,
    drafts,
    generate,
    loops,
)
from lorax_spec.train.data import TokenStream
from lorax_spec.train.evaluate import held_out_figures
from lorax_spec.train.heads import MedusaHeads
from lorax_spec.train.hydra import HydraHeads
from lorax_spec.train.loop import last_hidden

WIDTH = 4


class Scripted:
    """Heads over an output's own place: head k always gives the same few probabilities, of tokens
    that follow from k and, for heads that read tokens, from the token before."""

    def __init__(self, probabilities: list[list[float]], reads_tokens: bool) -> None:
        self.probabilities, self.reads_tokens = probabilities, reads_tokens

    def __len__(self) -> int:
        return len(self.probabilities)

    def likely(self, head: int, before: int) -> list[int]:
        """The WIDTH likeliest tokens, best first."""
        shift = before if self.reads_tokens else 0
        return [(10 * head + 7 * rank + 3 * shift) % 64 for rank in range(WIDTH)]

    def rank(
        self, head: int, logits: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        before = logits[:, 0].long().tolist()
        ids = torch.tensor([self.likely(head, token) for token in before])
        return ids, torch.tensor(self.probabilities[head]).expand(len(ids), -1)

    def logits(
        self, head: int, hidden: torch.Tensor, lm_head: Any, embedded: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Not logits but the token before, by its embedding: what ``rank`` looks at."""
        if embedded is None:
            return torch.zeros(len(hidden), 1)
        last = embedded[:, head]
        return torch.cdist(last, lm_head.weight).argmin(1, keepdim=True).float()


@st.composite
def scripted(draw: st.DrawFn) -> Scripted:
    probabilities = [
        sorted(draw(st.lists(st.floats(0.01, 0.3), min_size=WIDTH, max_size=WIDTH)), reverse=True)
        for _ in range(draw(st.integers(1, 3)))
    ]
    return Scripted(probabilities, draw(st.booleans()))


@given(scripted(), st.integers(1, 30))
@settings(deadline=None)
def test_the_tree_is_the_best_one(tiny_model: Any, heads: Scripted, nodes: int) -> None:
    output = Output([5, 6], [9, 20])
    scores: list[dict[tuple[int, ...], float]] = [{}, {}]
    for first, found in zip(output.tokens, scores, strict=True):
        for depth in range(1, len(heads) + 1):
            for ranks in itertools.product(range(WIDTH), repeat=depth):
                path, before = [], first
                for k, r in enumerate(ranks):
                    before = heads.likely(k, before)[r]
                    path.append(before)
                worth = math.prod(heads.probabilities[k][r] for k, r in enumerate(ranks))
                found[tuple(path)] = worth
    drafted = drafts(tiny_model, heads, output, nodes, heads.rank)
    for chosen, found in zip(drafted, scores, strict=True):
        assert len(chosen) == min(nodes, len(found))
        assert all(len(path) == 1 or path[:-1] in chosen for path in chosen)
        best = sorted(found.values(), reverse=True)[: len(chosen)]
        assert math.isclose(math.fsum(found[p] for p in chosen), math.fsum(best), rel_tol=1e-5)


@given(scripted())
@settings(deadline=None)
def test_no_nodes_is_the_chain_of_first_guesses(tiny_model: Any, heads: Scripted) -> None:
    output = Output([5, 6], [9])
    chain, before = [], 9
    for k in range(len(heads)):
        before = heads.likely(k, before)[0]
        chain.append(before)
    (drafted,) = drafts(tiny_model, heads, output, 0, heads.rank)
    assert drafted == {tuple(chain[:depth]) for depth in range(1, len(chain) + 1)}


def drafts_for(tokens: list[int], heads: int, right: bool) -> list[Paths]:
    """Chains of heads that always know, or never know, what comes."""
    shift = 0 if right else 1
    padded = [*tokens, *[0] * heads]
    chains = [[t + shift for t in padded[i + 1 : i + 1 + heads]] for i in range(len(tokens))]
    return [{tuple(chain[:depth]) for depth in range(1, heads + 1)} for chain in chains]


@given(st.lists(st.integers(0, 50), min_size=2, max_size=60), st.integers(1, 4))
def test_every_token_is_accepted_or_costs_a_step(tokens: list[int], heads: int) -> None:
    accepted, steps = accepted_and_steps(drafts_for(tokens, heads, True), tokens)
    assert accepted + steps in (len(tokens) - 1, len(tokens))
    assert steps == math.ceil((len(tokens) - 1) / (heads + 1))
    assert accepted_and_steps(drafts_for(tokens, heads, False), tokens) == (0, len(tokens) - 1)


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


def test_sampled_outputs_have_the_engine_s_noise(tiny_model: Any) -> None:
    """A token is the argmax of logits / T + gumbel(seed, its place in the sequence)."""
    prompts = [[5, 6, 7], [9, 10, 11, 12, 13]]
    outputs = generate(tiny_model, prompts, temperature=1.5, new_tokens=12, seed=3)
    assert [output.seed for output in outputs] == [3 << 32, (3 << 32) + 1]
    for output in outputs:
        ids = torch.tensor([output.prompt + output.tokens[:-1]])
        logits = tiny_model(ids).logits[0, len(output.prompt) - 1 :]
        places = range(len(output.prompt), len(output.prompt) + len(output.tokens))
        noise = gumbel([output.seed] * len(places), list(places), 64, torch.device("cpu"))
        assert (logits / 1.5 + noise).argmax(-1).tolist() == output.tokens


def test_drafts_stand_at_the_place_of_the_token_before(tiny_model: Any) -> None:
    """At place i the base gives token i; a fresh head, being the base, then guesses token i."""
    (output,) = generate(tiny_model, [[5, 6, 7]], temperature=0.0, new_tokens=10)
    for heads in (MedusaHeads(32, 1), HydraHeads(32, 1, 8)):
        assert drafts(tiny_model, heads, output, 0) == [{(token,)} for token in output.tokens]


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
