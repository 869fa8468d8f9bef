"""Promise P1: neither speculation nor the batch, chunks, preemption or cached prefixes change a
token (issue 2, must show 4).  With ``deterministic`` they do not change a bit of a log-probability
either, in float32 and in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorax_spec import embedded
from lorax_spec.engine.engine import Engine
from lorax_spec.types import (
    BASE_MODEL,
    GenerateRequest,
    Method,
    Parameters,
    Response,
    Speculation,
    Token,
)

pytestmark = pytest.mark.slow

MAX_TOTAL = 448
#: Room for little more than one long request: crowds are preempted.
TIGHT_CACHE = 640


@st.composite
def requests(draw: st.DrawFn) -> GenerateRequest:
    kind = draw(st.sampled_from(["rename", "code", "doc", "tests"]))
    text = draw(st.sampled_from(embedded.workloads()[kind]))["prompt"]
    greedy = draw(st.booleans())
    optional = {
        "top_k": st.integers(1, 50),
        "top_p": st.floats(0.1, 1.0),
        "typical_p": st.floats(0.2, 1.0),
        "min_p": st.floats(0.0, 0.3),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(optional)), max_size=2)) if not greedy else set()
    penalties = {
        "repetition_penalty": st.floats(0.8, 1.5),
        "frequency_penalty": st.floats(-0.5, 1.0),
        "presence_penalty": st.floats(-0.5, 1.0),
        "logit_bias": st.dictionaries(st.integers(4, 4000), st.floats(-5, 5), max_size=3),
        "stop": st.lists(st.sampled_from(["\n\n", "self", "return", ")"]), max_size=2).map(tuple),
        "return_k_alternatives": st.integers(1, 4),
        "decoder_input_details": st.just(True),
        "ignore_eos_token": st.just(True),
    }
    extras = draw(st.sets(st.sampled_from(sorted(penalties)), max_size=3))
    parameters = Parameters(
        max_new_tokens=draw(st.integers(1, 28)),
        temperature=0.0 if greedy else draw(st.floats(0.3, 1.5)),
        seed=None if greedy else draw(st.integers(0, 2**64 - 1)),
        truncate=draw(st.sampled_from([None, 30])),
        **{name: draw(optional[name]) for name in sorted(chosen)},
        **{name: draw(penalties[name]) for name in sorted(extras)},
    )
    adapter, heads = draw(
        st.sampled_from(
            [
                (BASE_MODEL, None),
                ("demo/pirate", None),
                ("demo/pirate", "demo/pirate-medusa"),
                ("demo/tests", "demo/medusa-v1"),
                ("demo/medusa", None),
                ("demo/medusa-v1", None),
                ("demo/tests-medusa", None),
            ]
        )
    )
    method = draw(st.sampled_from([Method.AUTO, Method.PROMPT_LOOKUP]))
    return GenerateRequest(
        inputs=text,
        adapter_id=adapter,
        parameters=parameters,
        speculation=Speculation(method, draw(st.integers(0, 20)), heads),
    )


def unspeculated(request: GenerateRequest) -> GenerateRequest:
    return replace(request, speculation=Speculation(Method.NONE))


def without_drafters(response: Response) -> tuple[object, ...]:
    """All that speculation must leave alone."""
    details = response.details
    tokens = tuple(replace(token, skipped=False, drafter="") for token in details.tokens)
    return response.generated_text, details.finish_reason, details.prefill, tokens


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def exact_engines(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, Engine]]:
    """A roomy and a tight engine, bit for bit the same."""
    options = {"dtype": request.param, "deterministic": True, "max_total_tokens": MAX_TOTAL}
    with (
        Engine(**options) as roomy,
        Engine(**options, max_batch_total_tokens=TIGHT_CACHE, max_batch_prefill_tokens=50) as tight,
    ):
        yield roomy, tight


@pytest.fixture(scope="module")
def fast_engines() -> Iterator[tuple[Engine, Engine]]:
    options = {"dtype": "float32", "deterministic": False, "max_total_tokens": MAX_TOTAL}
    with (
        Engine(**options) as roomy,
        Engine(**options, max_batch_total_tokens=TIGHT_CACHE, max_batch_prefill_tokens=50) as tight,
    ):
        yield roomy, tight


several = st.lists(requests(), min_size=1, max_size=5)
thorough = settings(
    max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@thorough
@given(batch=several)
def test_bit_for_bit(exact_engines: tuple[Engine, Engine], batch: list[GenerateRequest]) -> None:
    roomy, tight = exact_engines
    alone = [roomy.generate([unspeculated(request)])[0] for request in batch]
    crowd = tight.generate(batch)
    assert [without_drafters(r) for r in crowd] == [without_drafters(r) for r in alone]
    tight.core.check_integrity()


@thorough
@given(batch=several)
def test_same_tokens(fast_engines: tuple[Engine, Engine], batch: list[GenerateRequest]) -> None:
    roomy, tight = fast_engines
    alone = [roomy.generate([unspeculated(request)])[0] for request in batch]
    for expected, actual in zip(alone, tight.generate(batch), strict=True):
        assert actual.generated_text == expected.generated_text
        assert actual.details.finish_reason == expected.details.finish_reason
        assert _ids(actual) == _ids(expected)
        for a, e in zip(actual.details.tokens, expected.details.tokens, strict=True):
            assert abs(a.logprob - e.logprob) < 1e-3
    tight.core.check_integrity()


def test_the_tight_engine_did_preempt(exact_engines: tuple[Engine, Engine]) -> None:
    """Otherwise the properties above would not have tried preemption."""
    _, tight = exact_engines
    text = embedded.workloads()["code"]
    parameters = Parameters(max_new_tokens=200, ignore_eos_token=True)
    before = tight.core._scheduler.preemptions
    tight.generate([GenerateRequest(item["prompt"], parameters=parameters) for item in text[:3]])
    assert tight.core._scheduler.preemptions > before


def _ids(response: Response) -> list[int]:
    return [token.id for token in response.details.tokens]


def test_drafts_were_accepted(exact_engines: tuple[Engine, Engine]) -> None:
    """Correct verification hides wrong drafts: the properties are empty unless drafts hit."""
    _, tight = exact_engines
    prompts = [item["prompt"] for item in embedded.workloads()["rename"][:6]]
    for adapter, drafter in (("demo/medusa", "medusa"), (BASE_MODEL, "prompt_lookup")):
        answers = tight.generate(
            GenerateRequest(
                prompt,
                adapter,
                parameters=Parameters(max_new_tokens=40, temperature=0.7, seed=1),
                speculation=Speculation(num_tokens=6),
            )
            for prompt in prompts
        )
        hits: list[Token] = [t for a in answers for t in a.details.tokens if t.drafter == drafter]
        assert len(hits) > 20
