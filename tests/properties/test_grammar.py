"""``response_format``: what is complete is valid, and speculation changes none of it (issue 3,
must show 5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorax_spec import embedded
from lorax_spec.engine.drafting.grammar import allowed
from lorax_spec.engine.engine import Engine
from lorax_spec.engine.sequence import Sequence
from lorax_spec.errors import InvalidArgument
from lorax_spec.speculation.offer import Offer
from lorax_spec.speculation.tree import ROOT
from lorax_spec.text.response_format import check_response_format
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
from tests.properties.grammars import EOS, constraint, formats, satisfies, vocabulary

pytestmark = pytest.mark.slow

LONGEST_WALK = 300
quick_enough = settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@quick_enough
@given(wanted=formats(), seed=st.integers(0, 2**32))
def test_whatever_is_permitted_ends_valid(wanted: ResponseFormat, seed: int) -> None:
    """No model: a token is drawn among those permitted, an end as soon as there may be one, or a
    little later."""
    check_response_format(wanted)
    try:
        walker = constraint(wanted)
    except InvalidArgument as error:
        assert "does not compile" in error.message
        return
    random = Random(seed)
    tokens: list[int] = []
    for _ in range(LONGEST_WALK):
        choices = walker.choices()
        assert choices, "a walk goes on or ends"
        ends = [token for token in choices if token in EOS]
        if ends and random.random() < 0.5:
            choices = ends
        token = random.choice(choices)
        assert walker.follow(token)
        if token in EOS:
            break
        tokens.append(token)
    else:
        return
    text = b"".join(vocabulary().pieces[token] for token in tokens).decode()
    assert satisfies(text, wanted)
    assert vocabulary().tokenizer.decode(tokens) == text, "nothing of it is markup"


@quick_enough
@given(wanted=formats(), data=st.data())
def test_pruning_drops_what_is_forbidden_and_nothing_else(
    wanted: ResponseFormat, data: st.DataObject
) -> None:
    try:
        walker = constraint(wanted)
    except InvalidArgument:
        return
    random = Random(data.draw(st.integers(0, 2**32)))
    for _ in range(random.randrange(6)):
        free = [token for token in walker.choices() if token not in EOS]
        if free:
            walker.follow(random.choice(free))
    before = walker.choices()
    tokens: list[int] = []
    parents: list[int] = []
    paths: list[tuple[int, ...]] = []
    for _ in range(random.randrange(1, 20)):
        parent = random.randrange(ROOT, len(tokens))
        path = () if parent == ROOT else paths[parent]
        followed = walker.follow_all(path)
        likely = walker.choices() if random.random() < 0.7 and followed == len(path) else []
        walker.back(followed)
        token = random.choice(likely or range(4096))
        if (*path, token) not in paths:
            tokens.append(token)
            parents.append(parent)
            paths.append((*path, token))
    count = len(tokens)
    offer = Offer(tuple(tokens), tuple(parents), (0.5,) * count, ("x",) * count)
    sequence = Sequence.__new__(Sequence)
    sequence.grammar = walker
    pruned = allowed(sequence, offer)
    expected = []
    for path in paths:
        followed = walker.follow_all(path)
        walker.back(followed)
        if followed == len(path):
            expected.append(path)
    kept: list[tuple[int, ...]] = []
    for token, parent in zip(pruned.tokens, pruned.parents, strict=True):
        kept.append((*(() if parent == ROOT else kept[parent]), token))
    assert kept == expected
    assert walker.choices() == before, "looking ahead leaves no trace"


@st.composite
def requests(draw: st.DrawFn) -> GenerateRequest:
    kind = draw(st.sampled_from(["rename", "code", "doc", "chat"]))
    prompts = embedded.workloads().get(kind) or embedded.workloads()["code"]
    sampled = draw(st.booleans())
    penalties = {
        "repetition_penalty": st.floats(0.8, 1.5),
        "frequency_penalty": st.floats(-0.5, 1.0),
        "presence_penalty": st.floats(-0.5, 1.0),
        "logit_bias": st.dictionaries(st.integers(0, 4000), st.floats(-99, 99), max_size=3),
        "return_k_alternatives": st.integers(1, 4),
        "ignore_eos_token": st.just(True),
    }
    filters = {"top_k": st.integers(1, 50), "top_p": st.floats(0.1, 1.0), "min_p": st.just(0.2)}
    extras = draw(st.sets(st.sampled_from(sorted(penalties)), max_size=2))
    chosen = draw(st.sets(st.sampled_from(sorted(filters)), max_size=1)) if sampled else set()
    parameters = Parameters(
        max_new_tokens=draw(st.integers(8, 48)),
        temperature=draw(st.floats(0.3, 1.5)) if sampled else 0.0,
        seed=draw(st.integers(0, 2**64 - 1)) if sampled else None,
        truncate=draw(st.sampled_from([None, 30])),
        response_format=draw(st.none() | formats()),
        **{name: draw(penalties[name]) for name in sorted(extras)},
        **{name: draw(filters[name]) for name in sorted(chosen)},
    )
    adapter, heads = draw(
        st.sampled_from(
            [(BASE_MODEL, None), ("demo/pirate", "demo/pirate-medusa"), ("demo/medusa", None)]
        )
    )
    return GenerateRequest(
        inputs=draw(st.sampled_from(prompts))["prompt"],
        adapter_id=adapter,
        parameters=parameters,
        speculation=Speculation(
            draw(st.sampled_from([Method.AUTO, Method.PROMPT_LOOKUP])),
            draw(st.none() | st.integers(0, 20)),
            heads,
        ),
    )


def compiles(request: GenerateRequest) -> bool:
    wanted = request.parameters.response_format
    try:
        return wanted is None or constraint(wanted) is not None
    except InvalidArgument:
        return False


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[Engine, Engine]]:
    """A roomy one, and one so tight that crowds are preempted; bit for bit the same."""
    options = {"dtype": "float32", "deterministic": True, "max_total_tokens": 448}
    with (
        Engine(**options) as roomy,
        Engine(**options, max_batch_total_tokens=640, max_batch_prefill_tokens=50) as tight,
    ):
        yield roomy, tight


def without_drafters(response: Response) -> tuple[object, ...]:
    tokens = tuple(replace(t, skipped=False, drafter="") for t in response.details.tokens)
    return response.generated_text, response.details.finish_reason, tokens


@settings(quick_enough, max_examples=20)
@given(batch=st.lists(requests().filter(compiles), min_size=1, max_size=5))
def test_bit_for_bit(engines: tuple[Engine, Engine], batch: list[GenerateRequest]) -> None:
    """Alone and undrafted, or in a drafting crowd with free texts: the same, and valid."""
    roomy, tight = engines
    plain = [replace(request, speculation=Speculation(Method.NONE)) for request in batch]
    alone = [roomy.generate([request])[0] for request in plain]
    crowd = tight.generate(batch)
    assert [without_drafters(r) for r in crowd] == [without_drafters(r) for r in alone]
    for request, response in zip(batch, crowd, strict=True):
        wanted = request.parameters.response_format
        if wanted is not None and response.details.finish_reason is FinishReason.EOS_TOKEN:
            assert satisfies(response.generated_text, wanted)
    tight.core.check_integrity()
