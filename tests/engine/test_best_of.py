"""``best_of`` in process: the likeliest of the plain answers, whoever drafts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from lorax_spec import Engine
from lorax_spec.errors import InvalidArgument
from lorax_spec.text.best_of import SEED_STEP
from lorax_spec.types import GenerateRequest, Method, Parameters, Response, Speculation

pytestmark = pytest.mark.slow

COUNT = 4
PROMPT = "import unittest\n\nclass TestQueue(unittest.TestCase):\n    def test_"
OFF = Speculation(Method.NONE)
ON = [
    (None, Speculation(Method.PROMPT_LOOKUP, 5)),
    (None, Speculation(Method.PROMPT_LOOKUP, 8, reference=PROMPT * 3)),
    ("demo/medusa", Speculation(Method.MEDUSA)),
    ("demo/tests-medusa", Speculation()),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine() as running:
        yield running


def asked(seed: int, adapter: str | None, drafts: Speculation) -> GenerateRequest:
    parameters = Parameters(24, 0.8, seed=seed, stop=("\n\n",))
    return GenerateRequest(PROMPT, adapter, parameters=parameters, speculation=drafts)


def several(request: GenerateRequest, **changes: object) -> GenerateRequest:
    parameters = replace(request.parameters, best_of=COUNT, **changes)  # type: ignore[arg-type]
    return replace(request, parameters=parameters)


def singles(engine: Engine, seed: int, adapter: str | None) -> list[Response]:
    seeds = [(seed + place * SEED_STEP) % 2**64 for place in range(COUNT)]
    return engine.generate([asked(one, adapter, OFF) for one in seeds])


def likeliest(answers: list[Response]) -> Response:
    means = [
        sum(token.logprob for token in one.details.tokens) / one.details.generated_tokens
        for one in answers
    ]
    return answers[means.index(max(means))]


@pytest.mark.parametrize(("adapter", "drafts"), ON)
def test_the_likeliest_of_the_plain_answers(
    engine: Engine, adapter: str | None, drafts: Speculation
) -> None:
    seeds = [1, 2**64 - 1]
    expected = [likeliest(singles(engine, seed, adapter)) for seed in seeds]
    assert len({one.generated_text for one in expected}) == len(seeds), "different answers"
    requests = [several(asked(seed, adapter, method)) for method in (OFF, drafts) for seed in seeds]
    for ours, theirs in zip(engine.generate(requests), expected * 2, strict=True):
        assert ours.generated_text == theirs.generated_text
        assert ours.details.seed == theirs.details.seed
        assert [token.id for token in ours.details.tokens] == [
            token.id for token in theirs.details.tokens
        ]
    engine.core.check_integrity()


def test_among_other_requests_and_without_details(engine: Engine) -> None:
    plain, wanted = asked(9, None, Speculation()), asked(1, None, Speculation())
    answers = engine.generate([plain, several(wanted, details=False), plain])
    assert answers[0].generated_text == answers[2].generated_text
    best = likeliest(singles(engine, 1, None))
    assert (answers[1].generated_text, answers[1].details.tokens) == (best.generated_text, ())


def test_a_failure_leaves_nothing_behind(engine: Engine) -> None:
    wrong = several(replace(asked(1, None, OFF), adapter_id="demo/nix"))
    with pytest.raises(Exception, match="demo/nix"):
        engine.generate([several(asked(1, None, OFF)), wrong])
    greedy = GenerateRequest(PROMPT, parameters=Parameters(4, best_of=2))
    with pytest.raises(InvalidArgument):
        engine.generate([several(asked(1, None, OFF)), greedy])
    assert not engine.core.has_work
    engine.core.check_integrity()
