"""Choosing tokens: every rule against another's code or formula, and no row sees its neighbours."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from lorax_spec.engine.sampling import (
    Chosen,
    History,
    Place,
    SamplingRule,
    choose,
    process,
    sampling_rule,
)
from lorax_spec.kernels.noise import gumbel
from lorax_spec.types import Parameters

CPU = torch.device("cpu")

#: Filters compare sums of float32 probabilities; a total this close to its bound may fall either
#: way, since ours sums from the likeliest token on and transformers' from the least likely.
ROUNDING = 1e-5


@st.composite
def logits(draw: st.DrawFn, size: int | None = None) -> torch.Tensor:
    """Raw logits of one row; every second example is coarse, so that scores tie."""
    count = size or draw(st.integers(2, 70))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    row = torch.randn(count, generator=generator) * draw(st.sampled_from([0.3, 2.0, 8.0]))
    return row.round() if draw(st.booleans()) else row


tokens_of = st.lists(st.integers(0, 1), max_size=8)


def ours(row: torch.Tensor, rule: SamplingRule, history: History | None = None) -> torch.Tensor:
    return process(row, Place(0, 0, rule, history))


def theirs(processor: LogitsProcessor, row: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    result: torch.Tensor = processor(torch.tensor([tokens], dtype=torch.int64), row[None].clone())
    return result[0]


def history(size: int, prompt: list[int], output: list[int]) -> History:
    return History(prompt, output, size, CPU)


@given(row=logits(), prompt=tokens_of, output=tokens_of, penalty=st.floats(0.2, 3.0))
def test_repetition_penalty_is_transformers(
    row: torch.Tensor, prompt: list[int], output: list[int], penalty: float
) -> None:
    rule = SamplingRule(repetition_penalty=penalty)
    expected = theirs(RepetitionPenaltyLogitsProcessor(penalty), row, prompt + output)
    assert torch.equal(ours(row, rule, history(len(row), prompt, output)), expected)


@given(row=logits(), temperature=st.floats(0.01, 20.0))
def test_temperature_is_transformers(row: torch.Tensor, temperature: float) -> None:
    expected = theirs(TemperatureLogitsWarper(temperature), row, [])
    assert torch.equal(ours(row, SamplingRule(temperature)), expected)


@given(row=logits(), k=st.integers(1, 80))
def test_top_k_is_transformers(row: torch.Tensor, k: int) -> None:
    """Tokens that tie with the k-th all stay, on both sides."""
    assert torch.equal(ours(row, SamplingRule(1.0, top_k=k)), theirs(TopKLogitsWarper(k), row, []))


@given(row=logits(), share=st.floats(0.001, 1.0, exclude_max=True))
def test_min_p_is_transformers(row: torch.Tensor, share: float) -> None:
    expected = theirs(MinPLogitsWarper(share), row, [])
    assert torch.equal(ours(row, SamplingRule(1.0, min_p=share)), expected)


@given(row=logits(), share=st.floats(0.001, 1.0, exclude_max=True))
def test_top_p_is_transformers(row: torch.Tensor, share: float) -> None:
    """As many tokens stay, of the same scores.  Where some of a tie must go, ours keeps the lower
    ids, so that the result follows from the row alone; transformers' sort leaves that open."""
    totals = row.double().softmax(-1).sort(descending=True).values.cumsum(-1)
    assume((totals - share).abs().min() > ROUNDING)
    scores = ours(row, SamplingRule(1.0, top_p=share))
    assert torch.equal(scores.sort().values, theirs(TopPLogitsWarper(share), row, []).sort().values)
    for tie in row.unique():
        kept = (scores[row == tie] > -torch.inf).tolist()
        assert kept == sorted(kept, reverse=True)


@given(row=logits(), mass=st.floats(0.001, 1.0, exclude_max=True))
def test_typical_p_is_transformers_but_for_ties(row: torch.Tensor, mass: float) -> None:
    """transformers keeps all tokens as surprising as the last one kept; ours stops at the mass."""
    logprobs = row.double().log_softmax(-1)
    surprise = (-logprobs + (logprobs.exp() * logprobs).sum()).abs()
    ordered, order = surprise.sort(stable=True)
    totals = logprobs.exp()[order].cumsum(-1)
    assume((totals - mass).abs().min() > ROUNDING)
    distances = ordered.diff()
    assume(bool(((distances == 0) | (distances > ROUNDING)).all()))
    kept = ours(row, SamplingRule(1.0, typical_p=mass)) > -torch.inf
    expected = theirs(TypicalLogitsWarper(mass), row, []) > -torch.inf
    last = surprise[kept].max()
    assert not (kept & ~expected).any()
    assert ((surprise[expected & ~kept] - last).abs() < ROUNDING).all()
    assert int(kept.sum()) == int((totals < mass).sum()) + 1


@given(
    row=logits(),
    prompt=tokens_of,
    output=tokens_of,
    frequency=st.floats(-2, 2),
    presence=st.floats(-2, 2),
)
def test_frequency_and_presence_are_openais_formula(
    row: torch.Tensor, prompt: list[int], output: list[int], frequency: float, presence: float
) -> None:
    """``mu[j] - c[j] * frequency - float(c[j] > 0) * presence``, c counting sampled tokens."""
    rule = SamplingRule(frequency_penalty=frequency, presence_penalty=presence)
    counts = torch.zeros(len(row), dtype=torch.float64)
    for token, count in Counter(output).items():
        counts[token] = count
    expected = row.double() - counts * frequency - (counts > 0).double() * presence
    actual = ours(row, rule, history(len(row), prompt, output)).double()
    assert torch.allclose(actual, expected, rtol=1e-6, atol=1e-5)


def test_bias_is_added_before_anything_else() -> None:
    row = torch.tensor([1.0, 2.0, -3.0, 0.5])
    rule = SamplingRule(0.5, repetition_penalty=2.0, logit_bias={2: 5.0, 0: -4})
    scores = ours(row, rule, history(4, [0, 2], []))
    assert scores.tolist() == [-6.0 / 0.5, 2.0 / 0.5, 1.0 / 0.5, 0.5 / 0.5]
    assert row.tolist() == [1.0, 2.0, -3.0, 0.5]


def test_filters_cut_what_the_filters_before_them_left() -> None:
    """Top-k, then top-p, typical-p and min-p over what is left, renormalised.  transformers takes
    min-p before typical-p; here LoRAX's order stands, and min-p, which it lacks, comes last."""
    row = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    # Of 4/9, 3/9 and 2/9 the first two reach 0.75; of 4/7 and 3/7 only the first exceeds 0.8 * 4/7.
    assert _kept(row, SamplingRule(1.0, top_k=3)) == [0, 1, 2]
    assert _kept(row, SamplingRule(1.0, top_p=0.75)) == [0, 1, 2]
    assert _kept(row, SamplingRule(1.0, top_k=3, top_p=0.75)) == [0, 1]
    assert _kept(row, SamplingRule(1.0, top_k=3, top_p=0.75, min_p=0.8)) == [0]


def test_a_share_that_is_reached_exactly_is_enough() -> None:
    """Four equal scores have exactly a quarter each."""
    assert _kept(torch.zeros(4), SamplingRule(1.0, top_p=0.5)) == [0, 1]
    assert _kept(torch.zeros(4), SamplingRule(1.0, typical_p=0.75)) == [0, 1, 2]
    assert _kept(torch.zeros(4), SamplingRule(1.0, min_p=1.0)) == [0, 1, 2, 3]


def _kept(row: torch.Tensor, rule: SamplingRule) -> list[int]:
    return (ours(row, rule) > -torch.inf).nonzero()[:, 0].tolist()


@st.composite
def rules(draw: st.DrawFn) -> SamplingRule:
    """Any rule, each of its parts at its default half of the time."""

    def maybe(default: float, strategy: st.SearchStrategy[float]) -> float:
        return draw(strategy) if draw(st.booleans()) else default

    return SamplingRule(
        temperature=maybe(0.0, st.floats(0.05, 3.0)),
        top_k=draw(st.sampled_from([0, 1, 3, 40])),
        top_p=maybe(1.0, st.floats(0.05, 1.0)),
        min_p=maybe(0.0, st.floats(0.0, 0.9)),
        typical_p=maybe(1.0, st.floats(0.05, 1.0)),
        repetition_penalty=maybe(1.0, st.floats(0.5, 2.0)),
        frequency_penalty=maybe(0.0, st.floats(-2.0, 2.0)),
        presence_penalty=maybe(0.0, st.floats(-2.0, 2.0)),
        logit_bias=draw(st.none() | st.dictionaries(st.integers(0, 36), st.floats(-9, 9))),
        seed=draw(st.integers(0, 2**64 - 1)),
        alternatives=draw(st.integers(0, 5)),
    )


@st.composite
def crowds(draw: st.DrawFn) -> tuple[torch.Tensor, list[Place]]:
    """Rows of an odd width, and a place for each with any rule and history."""
    count = draw(st.integers(1, 9))
    rows = torch.stack([draw(logits(37)) for _ in range(count)])
    places = []
    for row in range(count):
        prompt, output = draw(tokens_of), draw(tokens_of)
        rule = draw(rules())
        past = history(37, prompt, output) if rule.penalizes else None
        places.append(Place(row, draw(st.integers(1, 2**20)), rule, past))
    return rows, places


@pytest.mark.slow
@given(crowd=crowds(), data=st.data())
def test_a_choice_is_the_same_alone_and_in_any_crowd(
    crowd: tuple[torch.Tensor, list[Place]], data: st.DataObject
) -> None:
    """To the bit: token, logprob and alternatives."""
    rows, places = crowd
    order = data.draw(st.permutations(range(len(places))))
    together = choose(rows, [places[i] for i in order])
    for index, chosen in zip(order, together, strict=True):
        assert choose(rows[index : index + 1], [replace(places[index], row=0)]) == [chosen]


@given(crowd=crowds())
def test_a_choice_is_the_best_noisy_score_and_its_raw_logprob(
    crowd: tuple[torch.Tensor, list[Place]],
) -> None:
    rows, places = crowd
    for place, chosen in zip(places, choose(rows, places), strict=True):
        scores = process(rows[place.row], place)
        if not place.rule.greedy:
            scores = scores + gumbel([place.rule.seed], [place.position], len(scores), CPU)[0]
        assert chosen.token == int(scores.argmax())
        logprobs = rows[place.row].double().log_softmax(-1)
        assert chosen.logprob == pytest.approx(float(logprobs[chosen.token]), abs=1e-5)
        best = logprobs.sort(descending=True).values[: place.rule.alternatives]
        assert [value for _, value in chosen.alternatives] == pytest.approx(best.tolist(), abs=1e-5)
        for token, value in chosen.alternatives:
            assert value == pytest.approx(float(logprobs[token]), abs=1e-5)


@given(row=logits(37), temperature=st.floats(1e-300, 3.0), seed=st.integers(0, 2**64 - 1))
def test_a_greedy_row_survives_any_neighbour(
    row: torch.Tensor, temperature: float, seed: int
) -> None:
    """LoRAX divides every row by its temperature, 0 included, as soon as one row has another
    temperature; infinite scores then make the lowest id with a positive logit win."""
    greedy, sampled = SamplingRule(), SamplingRule(temperature, seed=seed)
    places = [Place(0, 5, greedy, None), Place(0, 5, sampled, None), Place(0, 5, greedy, None)]
    first, _, last = choose(row[None], places)
    assert first == last
    assert first.token == int(row.argmax())


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-38, 1e-44, 5e-324])
@pytest.mark.parametrize("more", [{}, {"top_p": 0.9}, {"typical_p": 0.9}, {"min_p": 0.1}])
def test_the_lowest_temperatures_choose_the_best(
    temperature: float, more: dict[str, float]
) -> None:
    row = torch.tensor([[-4.0, 3.0, 11.0, 10.0]])
    rule = SamplingRule(temperature, seed=3, **more)  # type: ignore[arg-type]
    assert choose(row, [Place(0, 1, rule, None)])[0].token == 2


def test_seed_and_position_decide_and_repeat() -> None:
    row = torch.zeros(1, 50)

    def draw(seed: int, position: int) -> Chosen:
        return choose(row, [Place(0, position, SamplingRule(1.0, seed=seed), None)])[0]

    assert draw(1, 7) == draw(1, 7)
    assert len({draw(1, position).token for position in range(20)}) > 5
    assert len({draw(seed, 7).token for seed in range(20)}) > 5


def test_one_row_can_be_chosen_from_by_several_rules() -> None:
    rows = torch.tensor([[0.0, 1.0, 0.5], [2.0, 0.0, 1.0]])
    places = [
        Place(1, 4, SamplingRule(), None),
        Place(0, 4, SamplingRule(), None),
        Place(1, 4, SamplingRule(logit_bias={2: 3.0}), None),
    ]
    assert [chosen.token for chosen in choose(rows, places)] == [0, 1, 2]


def test_a_rule_fills_in_what_a_request_leaves_out() -> None:
    assert sampling_rule(Parameters()) == SamplingRule()
    assert sampling_rule(Parameters()).plain
    everything = Parameters(
        temperature=0.7,
        top_k=4,
        top_p=0.9,
        min_p=0.1,
        typical_p=0.8,
        repetition_penalty=1.1,
        frequency_penalty=0.2,
        presence_penalty=0.3,
        logit_bias={3: 1.0},
        seed=9,
        return_k_alternatives=2,
    )
    rule = SamplingRule(0.7, 4, 0.9, 0.1, 0.8, 1.1, 0.2, 0.3, {3: 1.0}, 9, 2)
    assert sampling_rule(everything) == rule
    assert rule.penalizes and not rule.greedy and not rule.plain
