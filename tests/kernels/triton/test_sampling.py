"""Tokens chosen in kernels: against the engine's rule, and against float64 where filters cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.engine.sampling import SamplingRule, choose
from lorax_spec.kernels import sampling_rows as reference
from lorax_spec.kernels.noise import gumbel
from lorax_spec.kernels.sampling_rows import SamplingRows
from lorax_spec.kernels.triton import sampling
from lorax_spec.kernels.triton.filters import filter_scores
from tests.kernels.triton.places import Row, logits_of, rows_of, sampled

#: Interpreted kernels take milliseconds for each of their programs.
pytestmark = pytest.mark.slow

#: Of a sum of a few hundred float32 probabilities, and of noise.
TOLERANCE = 1e-5


@st.composite
def cases(draw: st.DrawFn, filters: bool) -> tuple[torch.Tensor, list[Row]]:
    vocabulary = draw(st.one_of(st.integers(1, 150), st.sampled_from([32, 64, 65, 128])))
    count = draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["any", "any", "ties", "flat"]))
    logits = logits_of(kind, count, vocabulary, draw(st.integers(0, 2**31)))
    token = st.integers(0, vocabulary - 1)
    some = st.lists(token, max_size=6).map(tuple)

    def row() -> Row:
        penalised = draw(st.booleans())
        biased = draw(st.booleans())
        rule = SamplingRule(
            temperature=draw(st.sampled_from([0.0, 0.3, 1.0, 1.7, 1e-35])),
            seed=draw(st.integers(0, 2**64 - 1)),
            repetition_penalty=draw(st.sampled_from([1.0, 1.3, 0.7])) if penalised else 1.0,
            frequency_penalty=draw(st.sampled_from([0.0, 0.4, -0.3])) if penalised else 0.0,
            presence_penalty=draw(st.sampled_from([0.0, 1.1])) if penalised else 0.0,
            logit_bias=draw(st.dictionaries(token, st.floats(-20, 20, width=32), max_size=5))
            if biased
            else None,
        )
        if filters:
            rule = replace(
                rule,
                top_k=draw(st.sampled_from([0, 0, 1, 2, 17, 1000])),
                top_p=draw(st.sampled_from([1.0, 1.0, 0.9, 0.5, 0.013])),
                typical_p=draw(st.sampled_from([1.0, 1.0, 0.8, 0.2])),
                min_p=draw(st.sampled_from([0.0, 0.0, 0.05, 0.6])),
            )
        banned = draw(st.one_of(st.none(), some.map(lambda tokens: tokens[: vocabulary - 1])))
        source = draw(st.integers(-1, count - 1))
        position = draw(st.integers(0, 2**32 - 1))
        return Row(source, position, rule, draw(some), draw(some), draw(some), banned)

    return logits, [row() for _ in range(draw(st.integers(1, 3)))]


def chosen_fairly(token: int, row: Row, logits: torch.Tensor, rows: SamplingRows, at: int) -> bool:
    """Whether no score, in float64, is better than the token's by more than rounding."""
    scores = reference.penalized(logits[row.source].double(), rows, at)
    if row.rule.greedy:
        return float(scores[token]) >= float(scores.max()) - TOLERANCE
    scores = reference.filtered(reference.tempered(scores, rows, at), rows, at)
    scores += gumbel([row.rule.seed], [row.position], len(scores), torch.device("cpu"))[0]
    slack = TOLERANCE * max(1.0, float(scores.max().abs()))
    return float(scores[token]) >= float(scores.max()) - slack


def clear_cut(row: Row, logits: torch.Tensor, rows: SamplingRows, at: int) -> bool:
    """Whether shifting the filters' limits by more than rounding changes nothing they keep."""
    kept = []
    for factor in (1.0 - TOLERANCE, 1.0, 1.0 + TOLERANCE):
        shifted = replace(
            rows,
            top_p=torch.where(rows.top_p < 1.0, rows.top_p * factor, 1.0),
            typical_p=torch.where(rows.typical_p < 1.0, rows.typical_p * factor, 1.0),
            min_p=rows.min_p * factor,
        )
        for dtype in (torch.float32, torch.float64):
            scores = reference.penalized(logits[row.source].to(dtype), shifted, at)
            scores = reference.tempered(scores, shifted, at)
            kept.append(reference.filtered(scores, shifted, at) > -torch.inf)
    return all(torch.equal(kept[0], other) for other in kept)


@settings(max_examples=25)
@given(case=cases(filters=False))
def test_tokens_and_logprobs_are_the_engines(
    case: tuple[torch.Tensor, list[Row]], device: torch.device
) -> None:
    logits, drawn = case
    rows = rows_of(drawn, logits.shape[1], device)
    tokens, logprobs, _ = sampled(logits.to(device), rows, filters=False)
    for at, row in enumerate(drawn):
        if row.source < 0:
            assert tokens[at] == -1 and logprobs[at] == 0.0
            continue
        (expected,) = choose(logits, [row.place(logits.shape[1])])
        token = int(tokens[at])
        exact = logits[row.source].double().log_softmax(-1)[token]
        assert abs(float(logprobs[at]) - float(exact)) <= TOLERANCE
        assert token == expected.token or chosen_fairly(token, row, logits, rows, at)
        if row.rule.greedy:
            assert token == expected.token


@settings(max_examples=20)
@given(case=cases(filters=True))
def test_filters_keep_what_the_engine_keeps(
    case: tuple[torch.Tensor, list[Row]], device: torch.device
) -> None:
    logits, drawn = case
    rows = rows_of(drawn, logits.shape[1], device)
    tokens, _, room = sampled(logits.to(device), rows)
    assert room.scores is not None
    for at, row in enumerate(drawn):
        if row.source < 0 or not clear_cut(row, logits, rows, at):
            continue
        (expected,) = choose(logits, [row.place(logits.shape[1])])
        token = int(tokens[at])
        assert token == expected.token or chosen_fairly(token, row, logits, rows, at)
        rule = row.rule
        if rule.greedy or (rule.top_k, rule.top_p, rule.typical_p, rule.min_p) == (0, 1, 1, 0):
            continue
        if rule.top_k >= logits.shape[1] and (rule.top_p, rule.typical_p, rule.min_p) == (1, 1, 0):
            continue
        scores = reference.tempered(reference.penalized(logits[row.source], rows, at), rows, at)
        assert torch.equal(room.scores[at].cpu(), reference.filtered(scores, rows, at))


@settings(max_examples=8)
@given(
    vocabulary=st.integers(2, 700),
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["any", "ties", "flat"]),
    top_k=st.sampled_from([0, 3, 100]),
    top_p=st.sampled_from([1.0, 0.97, 0.6]),
    typical_p=st.sampled_from([1.0, 0.9, 0.3]),
    min_p=st.sampled_from([0.0, 0.01]),
)
def test_filters_over_many_blocks(
    vocabulary: int,
    seed: int,
    kind: str,
    top_k: int,
    top_p: float,
    typical_p: float,
    min_p: float,
    device: torch.device,
) -> None:
    """With a used row, a greedy one and one that is not used; the latter two are left alone."""
    logits = logits_of(kind, 1, vocabulary, seed)
    logits[0, 1 :: 1 + vocabulary // 2] = -torch.inf
    rule = SamplingRule(temperature=1.0, top_k=top_k, top_p=top_p, typical_p=typical_p, min_p=min_p)
    drawn = [Row(0, 0, rule), Row(0, 0, replace(rule, temperature=0.0)), Row(-1, 0, rule)]
    rows = rows_of(drawn, vocabulary, device)
    scores = logits.expand(3, -1).contiguous().to(device)
    filter_scores(scores, rows, block=128)
    assert torch.equal(scores[1:].cpu(), logits.expand(2, -1))
    if clear_cut(drawn[0], logits, rows, 0):
        assert torch.equal(scores[0].cpu(), reference.filtered(logits[0], rows, 0))


def test_equal_scores_give_the_lowest_token(device: torch.device) -> None:
    logits = torch.zeros(3, 200)
    logits[1, [70, 130, 199]] = 1.0
    logits[2] = -torch.inf
    logits[2, 5] = 0.0
    greedy = SamplingRule()
    bans = [None, None, (5,)]
    drawn = [Row(i, 0, greedy, banned=ban) for i, ban in enumerate(bans)]
    tokens, _, _ = sampled(logits.to(device), rows_of(drawn, 200, device))
    assert tokens.tolist() == [0, 70, 0]


def test_a_long_bias_and_a_long_drafted_prefix(device: torch.device) -> None:
    """More entries than one chunk of them, and all 64 nodes of a draft on one path."""
    vocabulary = 300
    generator = torch.Generator().manual_seed(3)
    ids = torch.randperm(vocabulary, generator=generator)[:150].tolist()
    drafted = tuple(torch.randint(0, 40, (64,), generator=generator).tolist())
    rule = SamplingRule(
        repetition_penalty=1.4,
        frequency_penalty=0.2,
        presence_penalty=0.5,
        logit_bias={token: 10.0 * torch.rand((), generator=generator).item() - 5 for token in ids},
        temperature=0.9,
        top_k=vocabulary - 1,
    )
    logits = logits_of("any", 1, vocabulary, 5)
    row = Row(0, 1, rule, prompt=(250, 251), output=(252, 252, 3), drafted=drafted)
    rows = rows_of([row], vocabulary, device)
    tokens, _, room = sampled(logits.to(device), rows)
    (expected,) = choose(logits, [row.place(vocabulary)])
    assert tokens.tolist() == [expected.token]
    scores = reference.tempered(reference.penalized(logits[0], rows, 0), rows, 0)
    assert room.scores is not None
    assert torch.equal(room.scores[0].cpu(), reference.filtered(scores, rows, 0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_of_the_models_type(dtype: torch.dtype, device: torch.device) -> None:
    """They are widened first, which is exact; rows may lie further apart than they are long."""
    wide = logits_of("any", 2, 140, 11).to(dtype)
    logits = wide[:, :133]
    drawn = [Row(1, 4, SamplingRule()), Row(0, 9, SamplingRule(temperature=1.0, seed=5))]
    rows = rows_of(drawn, 133, device)
    tokens, logprobs, _ = sampled(wide.to(device)[:, :133], rows)
    expected = choose(logits.float(), [row.place(133) for row in drawn])
    assert tokens.tolist() == [one.token for one in expected]
    torch.testing.assert_close(logprobs, torch.tensor([one.logprob for one in expected]))


@settings(max_examples=5)
@given(case=cases(filters=True), block=st.sampled_from([16, 128]))
def test_a_row_has_the_same_bits_in_any_batch(
    case: tuple[torch.Tensor, list[Row]], block: int, device: torch.device
) -> None:
    logits, drawn = case
    vocabulary = logits.shape[1]
    tokens, logprobs, _ = sampled(logits.to(device), rows_of(drawn, vocabulary, device))
    for at, row in enumerate(drawn):
        if row.source >= 0:
            alone = replace(row, source=0)
            own = logits[row.source : row.source + 1].to(device)
            token, logprob, _ = sampled(own, rows_of([alone], vocabulary, device))
            assert token[0] == tokens[at] and torch.equal(logprob[0], logprobs[at])
            token, _, _ = sampled(own, rows_of([alone], vocabulary, device), block=block)
            assert token[0] == tokens[at]


@settings(max_examples=25)
@given(case=cases(filters=True))
def test_the_reference_is_the_engines_rule(case: tuple[torch.Tensor, list[Row]]) -> None:
    logits, drawn = case
    rows = rows_of(drawn, logits.shape[1], torch.device("cpu"))
    tokens, logprobs = reference.sample(logits, rows)
    for at, row in enumerate(drawn):
        if row.source >= 0 and clear_cut(row, logits, rows, at):
            (expected,) = choose(logits, [row.place(logits.shape[1])])
            assert int(tokens[at]) == expected.token
            assert abs(float(logprobs[at]) - expected.logprob) <= TOLERANCE


def test_blocks_of_the_size_launched_on_a_gpu(device: torch.device) -> None:
    """Several of each kernel's, and several splits."""
    vocabulary = 9_000
    logits = logits_of("any", 2, vocabulary, 21)
    warm = SamplingRule(temperature=0.8, seed=2**64 - 3)
    drawn = [
        Row(0, 77, SamplingRule()),
        Row(1, 78, warm, banned=tuple(range(0, vocabulary, 3))),
        Row(0, 2**31 + 5, replace(warm, top_k=50, top_p=0.95)),
        Row(1, 79, replace(warm, top_p=0.9, min_p=0.002, presence_penalty=0.5), (1,), (2, 3), (4,)),
        Row(0, 80, replace(warm, typical_p=0.9)),
    ]
    rows = rows_of(drawn, vocabulary, device)
    tokens, logprobs, room = sampled(logits.to(device), rows, block=sampling.BLOCK)
    expected = choose(logits, [row.place(vocabulary) for row in drawn])
    assert tokens.tolist() == [one.token for one in expected]
    likely = torch.tensor([one.logprob for one in expected])
    torch.testing.assert_close(logprobs, likely, rtol=TOLERANCE, atol=TOLERANCE)
    assert room.scores is not None
    for at in (2, 3, 4):
        scores = reference.penalized(logits[drawn[at].source].double(), rows, at)
        exact = reference.filtered(reference.tempered(scores, rows, at), rows, at)
        differ = (room.scores[at].cpu() > -torch.inf) != (exact > -torch.inf)
        # Their probability together is what rounding may move across a limit.
        assert float(scores.softmax(-1)[differ].sum()) <= TOLERANCE
