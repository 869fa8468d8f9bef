"""Promise P1: neither speculation nor the batch, chunks, preemption or cached prefixes change a
token (issue 2, must show 4; issue 3, must show 5: whoever drafts, alone or merged into trees).
With ``deterministic`` they do not change a bit of a log-probability either, in float32 and in
bfloat16."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorax_spec import embedded
from lorax_spec.engine.drafting.eligible import (
    DRAFT_MODEL,
    GRAMMAR,
    HYDRA,
    LOOKAHEAD,
    LOOKUP,
    MEDUSA,
)
from lorax_spec.engine.engine import Engine
from lorax_spec.types import (
    BASE_MODEL,
    FinishReason,
    GenerateRequest,
    Method,
    Parameters,
    Response,
    ResponseFormat,
    Speculation,
)
from tests.properties.any_request import requests
from tests.properties.figures import check_figures, drafts_as_asked
from tests.properties.grammars import satisfies

pytestmark = pytest.mark.slow

MAX_TOTAL = 448
SPECULATIVE_TOKENS = 8
#: Of the engine that serves crowds.  Its cache has room for little more than one long request:
#: crowds are preempted.
CROWDED = {
    "max_batch_total_tokens": 464,
    "max_batch_prefill_tokens": 50,
    "speculative_tokens": SPECULATIVE_TOKENS,
    "draft_model_id": str(embedded.draft_path()),
    "lookup_pool_tokens": 4000,
}


def unspeculated(request: GenerateRequest) -> GenerateRequest:
    return replace(request, speculation=Speculation(Method.NONE))


def without_drafters(response: Response) -> tuple[object, ...]:
    """All that speculation must leave alone."""
    details = response.details
    tokens = tuple(replace(token, skipped=False, drafter="") for token in details.tokens)
    return response.generated_text, details.finish_reason, details.seed, details.prefill, tokens


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def exact_engines(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, Engine]]:
    """A roomy and a tight engine, bit for bit the same."""
    options = {"dtype": request.param, "deterministic": True, "max_total_tokens": MAX_TOTAL}
    with Engine(**options) as roomy, Engine(**options, **CROWDED) as tight:
        yield roomy, tight


@pytest.fixture(scope="module")
def fast_engines() -> Iterator[tuple[Engine, Engine]]:
    options = {"dtype": "float32", "deterministic": False, "max_total_tokens": MAX_TOTAL}
    with Engine(**options) as roomy, Engine(**options, **CROWDED) as tight:
        yield roomy, tight


several = st.lists(requests(), min_size=2, max_size=8)
thorough = settings(
    max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def crowded(tight: Engine, batch: list[GenerateRequest]) -> list[Response]:
    """The answers of a crowd, whose figures add up and whose formats hold."""
    with drafts_as_asked(tight.core, SPECULATIVE_TOKENS):
        answers = tight.generate(batch)
    tight.core.check_integrity()
    for request, response in zip(batch, answers, strict=True):
        check_figures(request, response)
        wanted = request.parameters.response_format
        if wanted is not None and response.details.finish_reason is FinishReason.EOS_TOKEN:
            assert satisfies(response.generated_text, wanted)
    return answers


@thorough
@given(batch=several)
def test_bit_for_bit(exact_engines: tuple[Engine, Engine], batch: list[GenerateRequest]) -> None:
    roomy, tight = exact_engines
    alone = [roomy.generate([unspeculated(request)])[0] for request in batch]
    crowd = crowded(tight, batch)
    assert [without_drafters(r) for r in crowd] == [without_drafters(r) for r in alone]


@thorough
@given(batch=several)
def test_same_tokens(fast_engines: tuple[Engine, Engine], batch: list[GenerateRequest]) -> None:
    roomy, tight = fast_engines
    alone = [roomy.generate([unspeculated(request)])[0] for request in batch]
    for expected, actual in zip(alone, crowded(tight, batch), strict=True):
        assert actual.generated_text == expected.generated_text
        assert actual.details.finish_reason == expected.details.finish_reason
        assert _ids(actual) == _ids(expected)
        for a, e in zip(actual.details.tokens, expected.details.tokens, strict=True):
            assert abs(a.logprob - e.logprob) < 1e-3


def _ids(response: Response) -> list[int]:
    return [token.id for token in response.details.tokens]


def test_preempted_with_drafts(exact_engines: tuple[Engine, Engine]) -> None:
    """Otherwise the properties above might not have tried preemption."""
    roomy, tight = exact_engines
    batch = [
        GenerateRequest(
            item["prompt"],
            adapter,
            parameters=Parameters(90, 0.5, seed=3, frequency_penalty=0.3, ignore_eos_token=True),
            speculation=Speculation(method, 12),
        )
        for item, adapter, method in zip(
            embedded.workloads()["code"],
            ["demo/hydra", BASE_MODEL, BASE_MODEL, "demo/medusa"],
            [Method.AUTO, Method.LOOKAHEAD, Method.DRAFT_MODEL, Method.AUTO],
            strict=False,
        )
    ]
    alone = [roomy.generate([unspeculated(request)])[0] for request in batch]
    before = tight.core._scheduler.preemptions
    crowd = crowded(tight, batch)
    assert tight.core._scheduler.preemptions > before
    assert [without_drafters(r) for r in crowd] == [without_drafters(r) for r in alone]
    assert all(response.details.skipped_tokens for response in crowd)


DATES = ResponseFormat("regex", r"from 20\d\d-01-01 until 20\d\d-12-31, both included")


@pytest.mark.parametrize(
    ("drafter", "adapter", "method", "wanted"),
    [
        (MEDUSA, "demo/medusa", Method.MEDUSA, None),
        (MEDUSA, "demo/medusa-v1", Method.AUTO, None),
        (HYDRA, "demo/hydra", Method.MEDUSA, None),
        (HYDRA, "demo/hydra", Method.AUTO, None),
        (LOOKUP, BASE_MODEL, Method.PROMPT_LOOKUP, None),
        (LOOKUP, BASE_MODEL, Method.AUTO, None),
        (LOOKAHEAD, BASE_MODEL, Method.LOOKAHEAD, None),
        (DRAFT_MODEL, BASE_MODEL, Method.DRAFT_MODEL, None),
        (DRAFT_MODEL, BASE_MODEL, Method.AUTO, None),
        (GRAMMAR, BASE_MODEL, Method.LOOKAHEAD, DATES),
    ],
)
def test_drafts_were_accepted(
    exact_engines: tuple[Engine, Engine],
    drafter: str,
    adapter: str,
    method: Method,
    wanted: ResponseFormat | None,
) -> None:
    """Correct verification hides wrong drafts: the properties are empty unless drafts hit."""
    _, tight = exact_engines
    parameters = Parameters(40, temperature=0.7, seed=1, response_format=wanted)
    batch = [
        GenerateRequest(item["prompt"], adapter, parameters=parameters, speculation=speculation)
        for item in embedded.workloads()["rename"][:3]
        for speculation in (Speculation(method), Speculation(method, 6))
    ]
    hits = Counter(
        token.drafter for answer in crowded(tight, batch) for token in answer.details.tokens
    )
    assert hits[drafter] > 2


def test_branches_were_accepted(exact_engines: tuple[Engine, Engine]) -> None:
    """Nor would the properties try a tree whose first path is always the right one."""
    _, tight = exact_engines
    moved = 0
    original = tight.core._model.move

    def move(source: list[int], target: list[int]) -> None:
        nonlocal moved
        moved += len(source)
        original(source, target)

    parameters = Parameters(40, temperature=0.7, seed=1)
    batch = [
        GenerateRequest(item["prompt"], adapter, None, None, None, None, parameters, drafts)
        for item in embedded.workloads()["rename"][:3]
        for adapter in ("demo/medusa", "demo/hydra")
        for drafts in (Speculation(), Speculation(num_tokens=24))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tight.core._model, "move", move)
        answers = crowded(tight, batch)
    assert moved > 20
    merged = [a for a in answers if len(a.details.speculation.drafters) > 1]
    both = [a for a in merged if len({t.drafter for t in a.details.tokens if t.skipped}) > 1]
    assert len(both) > 3, "trees merged of several drafters' guesses, of which several were right"


def test_others_texts_were_copied(exact_engines: tuple[Engine, Engine]) -> None:
    """The pool of finished texts, and a reference."""
    roomy, tight = exact_engines
    request = GenerateRequest(
        "def walk(tree):\n    ",
        parameters=Parameters(28, temperature=0.9, seed=5, ignore_eos_token=True),
        speculation=Speculation(Method.PROMPT_LOOKUP, 12),
    )
    first, second = (crowded(tight, [request])[0] for _ in range(2))
    assert second.details.skipped_tokens > first.details.skipped_tokens + 10
    referring = replace(
        request,
        speculation=replace(request.speculation, reference=request.inputs + first.generated_text),
    )
    alone, helped = (roomy.generate([one])[0] for one in (request, referring))
    assert helped.details.skipped_tokens > alone.details.skipped_tokens + 10
    assert len({without_drafters(a) for a in (first, second, alone, helped)}) == 1
