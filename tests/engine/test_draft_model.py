"""What a small model offers, against what transformers makes of the same model and prefix.

Correct verification hides wrong drafts, so offers are compared themselves.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lorax_spec.engine.drafting.draft_model import CANDIDATES, DraftModelDrafter
from lorax_spec.engine.drafting.sharpness import Sharpness
from lorax_spec.engine.sampling import Place, SamplingRule, choose
from lorax_spec.speculation.offer import NOTHING
from tests.engine.small_model import (
    BLOCKS,
    Prompts,
    assert_greedy,
    chain_of,
    logits_after,
    new_drafter,
    new_sequence,
    offers,
    served,
    small,
)


def test_chains_are_what_transformers_writes(prompts: Prompts) -> None:
    chosen = [prompt for kind in sorted(prompts) for prompt in prompts[kind][:2]]
    sequences = [new_sequence(prompt) for prompt in chosen]
    drafter = new_drafter(catch_up=4000)
    made = [offers(drafter, [sequence])[0] for sequence in sequences[:4]]
    made += offers(drafter, sequences[4:])
    for offer, prompt in zip(made, chosen, strict=True):
        assert_greedy(offer, prompt, 6)


def test_every_node_has_the_probability_of_its_own_path(prompts: Prompts) -> None:
    prompt = prompts["code"][0]
    (offer,) = offers(new_drafter(factor=1.5), [new_sequence(prompt)], depth=4)
    assert len(offer) == 4 * CANDIDATES
    assert set(offer.drafters) == {"draft_model"}
    chain = chain_of(offer)
    for depth in range(4):
        likely = (1.5 * logits_after((*prompt, *chain[:depth]))).softmax(-1)
        values, ids = likely.topk(CANDIDATES)
        nodes = slice(depth * CANDIDATES, (depth + 1) * CANDIDATES)
        assert offer.tokens[nodes] == tuple(ids.tolist())
        assert offer.probabilities[nodes] == pytest.approx(values.tolist(), rel=1e-3)
        assert len(set(offer.parents[nodes])) == 1


@pytest.mark.parametrize("right", [0, 1, 3, 5, 6])
@pytest.mark.parametrize("then", ["guessed", "other"])
def test_offers_after_a_draft_was_judged(prompts: Prompts, right: int, then: str) -> None:
    """So many guesses came true, then came the next guess too (unverified), or something else."""
    drafter = new_drafter()
    sequences = [new_sequence(prompt) for prompt in prompts["rename"][:3]]
    for _ in range(3):
        made = offers(drafter, sequences)
        for sequence, offer in zip(sequences, made, strict=True):
            chain = chain_of(offer)
            others = [1000] if then == "other" else chain[right : right + 1] or [1000]
            sequence.tokens += chain[:right] + others
    for sequence, offer in zip(sequences, offers(drafter, sequences), strict=True):
        assert_greedy(offer, sequence.tokens, 6)


@pytest.mark.parametrize(
    "rule",
    [
        SamplingRule(temperature=0.8),
        SamplingRule(temperature=3.0, top_k=20),
        SamplingRule(temperature=0.7, top_p=0.6, min_p=0.05),
        SamplingRule(temperature=0.9, typical_p=0.5, logit_bias={100: 9.0, 7: -50.0}),
        SamplingRule(logit_bias={100: 30.0}),
    ],
)
def test_a_request_is_guessed_for_by_its_own_rule_and_noise(
    prompts: Prompts, rule: SamplingRule
) -> None:
    """A model that drafts for itself is always right."""
    rules = [replace(rule, seed=seed) for seed in (3, 2**63 + 5)]
    sequences = [new_sequence(prompts["prose"][0], own) for own in rules]
    made = offers(new_drafter(), [new_sequence(prompts["prose"][0]), *sequences])
    assert_greedy(made[0], prompts["prose"][0], 6)
    for sequence, offer in zip(sequences, made[1:], strict=True):
        tokens = list(sequence.tokens)
        for guess in chain_of(offer):
            place = Place(0, len(tokens), sequence.rule, None)
            assert guess == choose(logits_after(tuple(tokens))[None].clone(), [place])[0].token
            tokens.append(guess)
    assert not rule.temperature or chain_of(made[1]) != chain_of(made[2])


@pytest.mark.parametrize(("missing", "depth"), [(3, 3), (1, 1), (0, 0)])
def test_no_guess_lies_beyond_the_models_positions(missing: int, depth: int) -> None:
    most = small().config.max_position_embeddings
    sequence = new_sequence([i % 999 for i in range(most - missing)])
    drafter = new_drafter(catch_up=most)
    assert len(chain_of(offers(drafter, [sequence])[0])) == depth


def test_depth_and_nodes_bound_the_work(prompts: Prompts) -> None:
    drafter, prompt = new_drafter(), prompts["code"][3]
    for depth, nodes in [(0, 8), (8, 0)]:
        assert offers(drafter, [new_sequence(prompt)], depth, nodes) == [NOTHING]
    assert len(chain_of(offers(drafter, [new_sequence(prompt)], depth=2)[0])) == 2
    (one,) = offers(drafter, [new_sequence(prompt)], depth=8, nodes=1)
    (many,) = offers(drafter, [new_sequence(prompt)], depth=8)
    best = max(many.reach)
    assert one.reach[0] == pytest.approx(best) and len(chain_of(one)) < 8


def test_a_pass_that_costs_too_much_is_not_run(prompts: Prompts) -> None:
    """But for who asked for so many tokens."""
    prompt = prompts["rename"][0]
    drafter = new_drafter(price=lambda rows: 5.0)
    free, fixed = new_sequence(prompt), new_sequence(prompt, num_tokens=6)
    assert len(chain_of(offers(drafter, [free])[0])) == 1
    assert len(chain_of(offers(drafter, [fixed])[0])) == 6


def test_sharpness_rests_where_guesses_are_right_as_often_as_they_say() -> None:
    """Scores are drawn, and the one that decides differs from them by Gumbel noise of width 1/3:
    then softmax(3 * scores) is exactly right."""
    generator = torch.Generator().manual_seed(1)
    sharpness = Sharpness(factor=0.5)
    for _ in range(4000):
        scores = torch.randn(6, generator=generator)
        error = torch.rand(6, generator=generator).log().neg().log().neg() / 3
        best = int(scores.argmax())
        predicted = float((sharpness.factor * scores).softmax(-1)[best])
        sharpness.note(predicted, int((scores + error).argmax()) == best)
    assert sharpness.factor == pytest.approx(3.0, rel=0.25)


def test_offers_are_judged_by_the_tokens_that_come(prompts: Prompts) -> None:
    """Right guesses make a drafter surer, wrong ones less sure; unjudged ones change nothing."""
    sequence = new_sequence(prompts["doc"][0])
    served().allocate_cache(BLOCKS)
    drafter = DraftModelDrafter(served(), BLOCKS)
    (offer,) = offers(drafter, [sequence])
    offers(drafter, [sequence])
    assert drafter.sharpness.factor == 1.0
    sequence.tokens += chain_of(offer)
    offers(drafter, [sequence])
    surer = drafter.sharpness.factor
    assert surer > 1.0
    sequence.tokens.append(1000)
    offers(drafter, [sequence])
    assert drafter.sharpness.factor < surer
