"""What a small model offers, against what transformers makes of the same model and prefix.

Correct verification hides wrong drafts, so offers are compared themselves.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Sequence as Rows
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorax_spec import embedded
from lorax_spec.adapters.lease import Lease
from lorax_spec.engine.blocks import blocks_for
from lorax_spec.engine.drafting.draft_model import CANDIDATES, DraftModelDrafter, Price
from lorax_spec.engine.drafting.draft_model_loading import cache_blocks, check_vocabulary
from lorax_spec.engine.drafting.drafter import Turn
from lorax_spec.engine.drafting.sharpness import Sharpness
from lorax_spec.engine.model import LanguageModel
from lorax_spec.engine.request import TokenRequest
from lorax_spec.engine.sampling import Place, SamplingRule, choose
from lorax_spec.engine.sequence import Sequence
from lorax_spec.errors import InvalidArgument
from lorax_spec.speculation.offer import NOTHING, Offer
from lorax_spec.speculation.tree import ROOT
from lorax_spec.types import Parameters, Speculation

Prompts = dict[str, list[tuple[int, ...]]]
BLOCKS = 400
#: Candidates closer than this may change places by rounding.
NEAR_TIE = 1e-4


@functools.cache
def small() -> PreTrainedModel:
    """The shipped draft model as transformers runs it."""
    return AutoModelForCausalLM.from_pretrained(embedded.draft_path(), dtype=torch.float32)


@functools.cache
def served() -> LanguageModel:
    """The same as the engine runs it; every drafter that uses it gets its own cache."""
    model = AutoModelForCausalLM.from_pretrained(embedded.draft_path(), dtype=torch.float32)
    return LanguageModel(model, exact=False)


def new_drafter(
    blocks: int = BLOCKS,
    price: Price = lambda rows: 0.0,
    factor: float = 1.0,
    catch_up: int = 512,
) -> DraftModelDrafter:
    """One whose sharpness stays what it is, so that what it offers depends on nothing past."""
    served().allocate_cache(blocks)
    sharpness = Sharpness(factor, rate=0.0)
    return DraftModelDrafter(served(), blocks, price, sharpness, catch_up=catch_up)


def new_sequence(
    tokens: Rows[int], rule: SamplingRule | None = None, num_tokens: int | None = None
) -> Sequence:
    request = TokenRequest(0, tuple(tokens), Parameters(), Speculation(num_tokens=num_tokens))
    rule = rule or SamplingRule()
    return Sequence(request, cast(Lease, None), rule, list(tokens), limit=len(tokens) + 999)


def turn(sequence: Sequence, nodes: int = 64, depth: int = 6) -> Turn:
    return Turn(sequence, torch.empty(0), nodes, depth)


def offers(
    drafter: DraftModelDrafter, sequences: Rows[Sequence], depth: int = 6, nodes: int = 64
) -> list[Offer]:
    made = drafter.offer([turn(sequence, nodes, depth) for sequence in sequences])
    drafter.shadows.check_integrity()
    return made


def chain_of(offer: Offer) -> list[int]:
    """The tokens that were gone on with: the first child at every depth."""
    first: dict[int, int] = {}
    for node, parent in enumerate(offer.parents):
        first.setdefault(parent, node)
    chain, node = [], ROOT
    while node in first:
        node = first[node]
        chain.append(offer.tokens[node])
    return chain


@functools.cache
@torch.inference_mode()
def logits_after(tokens: tuple[int, ...]) -> torch.Tensor:
    """float32 [vocabulary], of a pass over all of ``tokens``."""
    row: torch.Tensor = small()(torch.tensor([tokens])).logits[0, -1].float()
    return row


@functools.cache
def written(tokens: tuple[int, ...], count: int) -> list[int]:
    """What transformers' own greedy generation writes after ``tokens``."""
    ids = small().generate(torch.tensor([tokens]), max_new_tokens=count, do_sample=False)
    return cast("list[int]", ids[0, len(tokens) :].tolist())


def assert_greedy(offer: Offer, tokens: Rows[int], depth: int) -> None:
    """The chain is what transformers would write; the rest of it where that ends early, or where
    two tokens are nearly as good, is not looked at."""
    chain = chain_of(offer)
    assert len(chain) == depth
    prefix = tuple(tokens)
    for guess, token in zip(chain, written(prefix, depth), strict=False):
        best = logits_after(prefix).topk(2).values
        if best[0] - best[1] < NEAR_TIE:
            return
        assert guess == token
        prefix += (token,)


def assert_alike(offer: Offer, other: Offer) -> None:
    """The same but for rounding."""
    assert offer.probabilities == pytest.approx(other.probabilities, rel=1e-3)
    for node, p in enumerate(other.probabilities):
        siblings = [q for i, q in enumerate(other.probabilities) if i != node]
        if offer.tokens[node] != other.tokens[node]:
            assert any(q == pytest.approx(p, rel=1e-3) for q in siblings)
            return


def fresh_offer(sequence: Sequence, depth: int) -> Offer:
    """What a drafter that never saw the sequence offers, from a cache of its own."""
    caches = served().caches
    (offer,) = offers(new_drafter(), [sequence], depth)
    served().caches = caches
    return offer


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


def test_a_long_prompt_is_caught_up_with_bit_by_bit(prompts: Prompts) -> None:
    """Meanwhile the others get their offers."""
    prompt = tuple((prompts["code"][0] + prompts["code"][1])[:330])
    long, short = new_sequence(prompt), new_sequence(prompts["doc"][0][:20])
    drafter = new_drafter(catch_up=100)
    for call in range(5):
        of_long, of_short = offers(drafter, [long, short])
        assert_greedy(of_short, short.tokens, 6)
        short.tokens += [*chain_of(of_short)[: call % 3], call]
        if of_long:
            break
        long.tokens.append(5)
    assert call == 3
    assert_greedy(of_long, long.tokens, 6)


def test_the_cache_of_those_that_wait_is_given_to_others(prompts: Prompts) -> None:
    """And is computed anew when they come back."""
    sequences = [new_sequence(prompt[:60]) for prompt in prompts["tests"][:3]]
    drafter = new_drafter(blocks=1 + 2 * blocks_for(60 + 6))
    for sequence in (*sequences, *sequences):
        (offer,) = offers(drafter, [sequence])
        assert_greedy(offer, sequence.tokens, 6)
        sequence.tokens.append(11)
    made = offers(drafter, sequences)
    assert made.count(NOTHING) == 1
    for sequence in sequences:
        drafter.forget(sequence)
    drafter.forget(sequences[0])
    assert all(offers(drafter, sequences[:2]))


def test_the_one_unused_for_longest_is_dropped(prompts: Prompts) -> None:
    first, second, third = (new_sequence(prompt[:60]) for prompt in prompts["tests"][:3])
    drafter = new_drafter(blocks=1 + 2 * blocks_for(60 + 6))
    for sequence in (first, second, first, third):
        offers(drafter, [sequence])
    assert drafter.shadows.of(first).row.blocks
    assert not drafter.shadows.of(second).row.blocks


def test_a_sequence_larger_than_the_cache_is_left_alone(prompts: Prompts) -> None:
    drafter = new_drafter(blocks=4)
    sequence = new_sequence(prompts["tests"][0][:100])
    assert offers(drafter, [sequence]) == [NOTHING]
    assert_greedy(
        offers(drafter, [new_sequence(prompts["tests"][1][:20])])[0], prompts["tests"][1][:20], 6
    )


def test_a_sequence_that_outgrows_the_cache_leaves_it_to_the_others(prompts: Prompts) -> None:
    """And has it back, computed anew, when the others have ended."""
    drafter = new_drafter(blocks=1 + blocks_for(60 + 6) + blocks_for(40))
    first, second = (new_sequence(prompt[:40]) for prompt in prompts["tests"][:2])
    assert all(offers(drafter, [first, second]))
    for sequence in (first, second):
        sequence.tokens += prompts["tests"][2][:20]
    made = offers(drafter, [first, second])
    assert made.count(NOTHING) == 1
    assert drafter.shadows.free == blocks_for(40)
    left_out, other = (first, second) if made[0] == NOTHING else (second, first)
    drafter.forget(other)
    (offer,) = offers(drafter, [left_out])
    assert_alike(offer, fresh_offer(left_out, 6))


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
    best = max(many.reach())
    assert one.reach()[0] == pytest.approx(best) and len(chain_of(one)) < 8


def test_a_pass_that_costs_too_much_is_not_run(prompts: Prompts) -> None:
    """But for who asked for so many tokens."""
    prompt = prompts["rename"][0]
    drafter = new_drafter(price=lambda rows: 5.0)
    free, fixed = new_sequence(prompt), new_sequence(prompt, num_tokens=6)
    assert len(chain_of(offers(drafter, [free])[0])) == 1
    assert len(chain_of(offers(drafter, [fixed])[0])) == 6


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["offer", "offer", "guesses", "others", "forget"]),
        st.integers(0, 7),
        st.integers(1, 7),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, blocks=st.sampled_from([9, 14, BLOCKS]), catch_up=st.sampled_from([7, 40, 512]))
def test_whatever_happened_the_offer_is_that_of_a_fresh_drafter(
    steps: list[Step], blocks: int, catch_up: int
) -> None:
    """Four sequences, of which bits of ``pick`` choose some: they grow by what was guessed, or by
    anything else, are asked for, are forgotten.  No block is lost."""
    draw = random.Random(repr(steps))
    drafter = new_drafter(blocks, catch_up=catch_up)
    cold = {0: SamplingRule(), 1: SamplingRule(temperature=0.8, seed=9)}
    sequences = [
        new_sequence([draw.randrange(4, 4096) for _ in range(20 * i + 1)], cold[i % 2])
        for i in range(4)
    ]
    guessed: dict[Sequence, list[int]] = {}
    for name, pick, count in steps:
        some = [s for i, s in enumerate(sequences) if (pick + 1) >> i & 1] or sequences
        match name:
            case "offer":
                for sequence, offer in zip(some, offers(drafter, some, count), strict=True):
                    guessed[sequence] = chain_of(offer)
                    if offer:
                        assert_alike(offer, fresh_offer(sequence, count))
            case "guesses":
                for sequence in some:
                    sequence.tokens += guessed.pop(sequence, [])[:count]
            case "others":
                for sequence in some:
                    sequence.tokens += [draw.randrange(4, 4096) for _ in range(count)]
            case "forget":
                for sequence in some:
                    drafter.forget(sequence)
        drafter.shadows.check_integrity()
    for sequence in sequences:
        drafter.forget(sequence)
    assert drafter.shadows.free == blocks - 1


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


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    path, base = embedded.draft_path(), embedded.path() / "base"
    check_vocabulary(small(), path, 4096, base)
    with pytest.raises(InvalidArgument, match=r"4096 tokens.*32000") as refused:
        check_vocabulary(small(), path, 32000, base)
    assert refused.value.field == "draft_model_id"
    text = (base / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(text)))
    check_vocabulary(small(), tmp_path, 4096, base)
    content = json.loads(text)
    names = {index: name for name, index in content["model"]["vocab"].items()}
    content["model"]["vocab"] |= {names[300]: 301, names[301]: 300}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InvalidArgument, match="names its tokens otherwise"):
        check_vocabulary(small(), tmp_path, 4096, base)


def test_the_cache_is_a_share_of_the_large_models() -> None:
    assert cache_blocks(1000, 10, 1 / 100) == 1000
    assert cache_blocks(1000, 10, 1 / 4) == 500
    assert cache_blocks(1000, 700, 1 / 4) == 700
