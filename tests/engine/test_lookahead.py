"""Lookahead as a drafter: on models known by heart, and on the embedded one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec import embedded
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.drafting.drafter import Outcome, Turn
from lorax_spec.engine.drafting.lookahead import LookaheadDrafter
from lorax_spec.engine.loading import load
from lorax_spec.engine.request import Emitted, Finished, TokenRequest
from lorax_spec.engine.sampling import Place, SamplingRule, choose
from lorax_spec.engine.sequence import Sequence
from lorax_spec.speculation.lookahead import Shape
from lorax_spec.speculation.offer import Offer, best
from lorax_spec.speculation.tree import EMPTY, DraftTree
from lorax_spec.speculation.verify import verify
from lorax_spec.train.acceptance import loops
from lorax_spec.types import Method, Speculation
from tests.engine.conftest import NewRequest
from tests.engine.drafting_loop import Model, Run, Step, check, run, sure_of
from tests.engine.sequences import sequence

VOCABULARY = 300


def by_heart(text: list[int]) -> Model:
    """A model that knows one text and its place in it, whatever came before."""
    return lambda tokens: sure_of(text[len(tokens)], VOCABULARY)


def asking(prompt: list[int], new_tokens: int, nodes: int, rule: SamplingRule) -> Sequence:
    made = sequence(prompt, new_tokens)
    speculation = Speculation(Method.LOOKAHEAD, nodes)
    return replace(made, request=replace(made.request, speculation=speculation), rule=rule)


def decoded(drafter: LookaheadDrafter, text: list[int], nodes: int) -> Run:
    one = asking(text[:20], len(text) - 60, nodes, SamplingRule())
    result = run(drafter, one, by_heart(text), nodes)
    assert one.tokens == text[: len(one.tokens)]
    assert len(drafter) == 0
    return result


def test_the_window_alone_knows_where_it_is() -> None:
    """A text in which no token comes twice: what is right comes from the window, whose guesses
    keep their places from one forward pass to the next."""
    text = random.Random(3).sample(range(VOCABULARY), VOCABULARY)
    assert decoded(LookaheadDrafter(Shape(4, 5)), text, 31).tokens_per_forward > 2.0


def test_the_pool_knows_what_was_said_before() -> None:
    verse = random.Random(4).sample(range(VOCABULARY), 40)
    result = decoded(LookaheadDrafter(Shape(1, 4)), verse * 8, 15)
    assert result.tokens_per_forward > 3.0


def test_sampled_guesses_have_the_noise_of_their_position() -> None:
    """A model without any preference: the seed and the position alone choose its tokens.  The
    window guesses them all, which is only possible with the very noise that will choose."""
    one = asking(list(range(20)), 150, 31, SamplingRule(temperature=0.8, seed=11))
    logits = torch.linspace(0.0, 0.1, VOCABULARY)[:60]
    result = run(LookaheadDrafter(Shape(4, 5)), one, lambda tokens: logits, 31)
    assert result.tokens_per_forward > 2.0
    without = asking(list(range(20)), 150, 31, SamplingRule(temperature=0.8, seed=11))
    while len(without.tokens) < without.limit:
        (chosen,) = choose(
            logits[None], [Place(0, len(without.tokens), without.rule, without.history)]
        )
        without.tokens.append(chosen.token)
    assert one.tokens == without.tokens


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 63),
    st.lists(st.integers(0, 9), min_size=1, max_size=30),
    st.sampled_from([0.0, 0.8]),
    st.integers(0, 2**32),
)
def test_no_model_makes_it_offer_what_is_not_allowed(
    nodes: int, prompt: list[int], temperature: float, seed: int
) -> None:
    """``run`` checks every offer; here the model says anything, and drafts are given up."""
    noise = torch.Generator().manual_seed(seed)
    drafter = LookaheadDrafter()
    one = asking(prompt, 25, nodes, SamplingRule(temperature=temperature, seed=seed))
    other = asking(prompt, 25, nodes, SamplingRule())
    drafter.offer([Turn(other, torch.zeros(1), nodes, 5)])
    result = run(drafter, one, lambda tokens: torch.randn(12, generator=noise), nodes)
    assert all(len(offer) <= nodes for offer in result.offers)
    assert all(offer.whole for offer in result.offers if offer)
    assert len(drafter) == 1
    drafter.forget(other)
    drafter.forget(other)
    assert len(drafter) == 0


def test_drafts_that_are_not_its_own_do_not_confuse_it() -> None:
    """Merged with others' guesses, cut to a part, or not verified at all."""
    text = random.Random(5).sample(range(VOCABULARY), VOCABULARY)
    drafter, model = LookaheadDrafter(Shape(3, 4)), by_heart(text)
    one = asking(text[:20], 200, 15, SamplingRule())
    for turn in range(60):
        asked = Turn(one, torch.zeros(1), 15, 15)
        (offer,) = drafter.offer([asked])
        check(offer, asked)
        draft = (EMPTY, best(offer, 3), _among_others(offer))[turn % 3]
        rows = [model(one.tokens)] + [torch.randn(VOCABULARY) for _ in range(len(draft))]
        right = verify([draft], lambda _: [Step(text[len(one.tokens)], True)])[0]
        if draft:
            drafter.observe([Outcome(one, draft, torch.stack(rows), right.nodes)])
        one.tokens.append(right.choices[0].token)


def _among_others(offer: Offer) -> DraftTree:
    """Behind two nodes of somebody else's."""
    parents = tuple(parent if parent < 0 else parent + 2 for parent in offer.parents)
    return DraftTree((298, 299, *offer.tokens), (-1, 0, *parents), ("",) * (len(offer) + 2))


@pytest.fixture(scope="module")
def engine() -> Iterator[tuple[EngineCore, LookaheadDrafter]]:
    """One that drafts with lookahead only."""
    drafter = LookaheadDrafter()
    config = EngineConfig(
        str(embedded.path() / "base"), dtype="float32", deterministic=True, max_total_tokens=512
    )
    core = EngineCore(load(config), lambda loaded, cost: [drafter])
    yield core, drafter
    core.check_integrity()
    core.close()


Answer = tuple[list[int], Finished]


def answers(core: EngineCore, requests: list[TokenRequest]) -> list[Answer]:
    tokens: dict[int, list[int]] = {request.request_id: [] for request in requests}
    ended: dict[int, Finished] = {}
    for request in requests:
        core.submit(request)
    while len(ended) < len(requests):
        for event in core.step():
            if isinstance(event, Emitted):
                assert all(token.drafter in ("", "lookahead") for token in event.tokens)
                tokens[event.request_id] += [token.id for token in event.tokens]
            else:
                assert isinstance(event, Finished)
                ended[event.request_id] = event
    return [(tokens[r.request_id], ended[r.request_id]) for r in requests]


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_it_changes_no_token_and_saves_passes(
    engine: tuple[EngineCore, LookaheadDrafter],
    prompts: dict[str, list[tuple[int, ...]]],
    new_request: NewRequest,
    temperature: float,
) -> None:
    """Issue 3, Must show 7: more than 1.3 tokens per forward, on outputs that do not loop."""
    core, drafter = engine
    asked = [*prompts["rename"][:3], *prompts["write"][:3]]

    def made(method: Method, sizes: list[int | None]) -> list[TokenRequest]:
        return [
            new_request(prompt, 90, method, size, temperature=temperature, seed=index)
            for index, (prompt, size) in enumerate(zip(asked, sizes, strict=True))
        ]

    plain = answers(core, made(Method.NONE, [None] * 6))
    drafted = answers(core, made(Method.LOOKAHEAD, [15, 31, 15, 15, 31, 63]))
    assert [tokens for tokens, _ in drafted] == [tokens for tokens, _ in plain]
    assert len(drafter) == 0
    good = [(t, end) for t, end in drafted if len(t) >= 8 and not loops(t)]
    assert len(good) >= 3
    tokens = sum(len(t) - 1 for t, _ in good)
    passes = sum(end.speculation.forward_passes - 1 for _, end in good)
    assert tokens / passes > 1.3
    for _, end in drafted:
        counts = end.speculation.drafters["lookahead"]
        assert counts.accepted_tokens == end.speculation.accepted_tokens > 0


def test_two_sizes_in_one_batch_are_what_was_asked_for(
    engine: tuple[EngineCore, LookaheadDrafter],
    prompts: dict[str, list[tuple[int, ...]]],
    new_request: NewRequest,
) -> None:
    core, _ = engine
    prompt = prompts["rename"][0]
    requests = [new_request(prompt, 40, Method.LOOKAHEAD, size) for size in (0, 4, 15)]
    requests.append(new_request(prompt, 40, Method.NONE))
    ends = [end.speculation for _, end in answers(core, requests)]
    assert ends[0].drafted_tokens == ends[3].drafted_tokens == 0
    assert 0 < ends[1].drafted_tokens <= 4 * (ends[1].forward_passes - 1)
    assert 4 * ends[2].forward_passes < ends[2].drafted_tokens <= 15 * ends[2].forward_passes


def test_a_request_that_is_cancelled_is_forgotten(
    engine: tuple[EngineCore, LookaheadDrafter],
    prompts: dict[str, list[tuple[int, ...]]],
    new_request: NewRequest,
) -> None:
    core, drafter = engine
    request = new_request(prompts["rename"][1], 50, Method.LOOKAHEAD, 15)
    core.submit(request)
    for _ in range(4):
        core.step()
    assert len(drafter) == 1
    core.cancel(request.request_id)
    assert len(drafter) == 0
