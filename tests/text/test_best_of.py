"""Several sequences of one request, and which of them is its answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.text.best_of import SEED_STEP, best, sequences
from lorax_spec.text.validate import Limits, ValidRequest, validate
from lorax_spec.types import (
    Details,
    FinishReason,
    GenerateRequest,
    Parameters,
    Response,
    SpeculationDetails,
    Timings,
    Token,
)
from tests.text.samples import TOKENIZER

SEEDS = st.integers(0, 2**64 - 1)


def asked(best_of: int | None, seed: int = 7, details: bool = True) -> ValidRequest:
    parameters = Parameters(10, 0.8, seed=seed, best_of=best_of, details=details)
    return validate(GenerateRequest("x", parameters=parameters), TOKENIZER, Limits(20, 32))


def answer(name: str, *logprobs: float) -> Response:
    tokens = tuple(Token(1, "x", logprob) for logprob in logprobs)
    return Response(
        name,
        Details(
            FinishReason.LENGTH, 1, len(tokens), 0, 7, (), tokens, SpeculationDetails(), Timings()
        ),
    )


@given(SEEDS, st.integers(2, 8))
def test_seeds_follow_from_the_first(seed: int, count: int) -> None:
    request = asked(count, seed)
    parts = sequences(request)
    assert [part.parameters.seed for part in parts] == [
        (seed + place * SEED_STEP) % 2**64 for place in range(count)
    ]
    assert len({part.parameters.seed for part in parts}) == count
    for part in parts:
        own = replace(part.parameters, seed=seed, best_of=count)
        assert replace(part, parameters=own) == request


@pytest.mark.parametrize("count", [None, 1])
def test_one_sequence_is_the_request_itself(count: int | None) -> None:
    request = asked(count, details=False)
    assert sequences(request) == (request,)
    only = answer("only")
    assert best(request, [only]) is only


def test_the_likeliest_per_token_wins_not_the_shortest() -> None:
    short, long = answer("short", -1.0), answer("long", -0.5, -0.5, -0.5)
    assert best(asked(2), [short, long]) is long
    assert best(asked(2), [long, short]) is long


def test_of_equals_the_first_wins_and_an_empty_answer_never() -> None:
    one, two, empty = answer("one", -1.0, -2.0), answer("two", -1.5), answer("empty")
    assert best(asked(3), [empty, one, two]) is one
    assert best(asked(3), [two, empty, one]) is two


def test_without_details_the_tokens_are_only_weighed() -> None:
    request = asked(2, details=False)
    assert all(part.parameters.details for part in sequences(request))
    chosen = best(request, [answer("a", -2.0), answer("b", -1.0)])
    assert (chosen.generated_text, chosen.details.tokens) == ("b", ())
    assert chosen.details.generated_tokens == 1
