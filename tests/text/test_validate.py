"""Every wrong field is named; what passes is complete."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from lorax_spec.errors import InvalidArgument
from lorax_spec.text.validate import Limits, ValidRequest, validate
from lorax_spec.types import (
    BASE_MODEL,
    AdapterRef,
    GenerateRequest,
    Message,
    Method,
    Parameters,
    ResponseFormat,
    Speculation,
)
from tests.text.samples import TOKENIZER

LIMITS = Limits(max_input_length=20, max_total_tokens=32)


def check(request: GenerateRequest, limits: Limits = LIMITS) -> ValidRequest:
    return validate(request, TOKENIZER, limits)


def parameters(**values: Any) -> Parameters:
    return check(GenerateRequest("x = 1", parameters=Parameters(**values))).parameters


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 33),
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("typical_p", 0.0),
        ("typical_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("seed", -1),
        ("seed", 2**64),
        ("truncate", 0),
        ("best_of", 0),
        ("best_of", 9),
        ("best_of", 2),
        ("return_k_alternatives", 0),
        ("return_k_alternatives", 101),
        ("stop", ("a", "")),
        ("stop", tuple("abcdefghijklmnopq")),
        ("logit_bias", {TOKENIZER.vocab_size: 1.0}),
        ("logit_bias", {1: 100.5}),
        ("logit_bias", {1: math.nan}),
    ],
)
def test_a_wrong_parameter_is_named(name: str, value: object) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parameters(**{name: value})
    assert caught.value.field == f"parameters.{name}"
    assert f"`{name}`" in caught.value.message


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (GenerateRequest(), "inputs"),
        (GenerateRequest("x", messages=(Message("user", "y"),)), "messages"),
        (GenerateRequest("x = 1\n" * 20), "inputs"),
        (GenerateRequest("x", speculation=Speculation(num_tokens=64)), "speculation.num_tokens"),
        (GenerateRequest("x", speculation=Speculation(num_tokens=-1)), "speculation.num_tokens"),
        (GenerateRequest("x", adapter_source="ftp"), "adapter_source"),
        (
            GenerateRequest("x", parameters=Parameters(response_format=ResponseFormat("regex"))),
            "parameters.response_format",
        ),
        (
            GenerateRequest("x", speculation=Speculation(reference="x\n" * 99)),
            "speculation.reference",
        ),
    ],
)
def test_a_wrong_field_is_named(request_: GenerateRequest, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check(request_)
    assert caught.value.field == field


@pytest.mark.parametrize("method", Method)
def test_every_method_passes(method: Method) -> None:
    assert check(GenerateRequest("x", speculation=Speculation(method))).speculation.method is method


def test_several_sequences_need_sampling() -> None:
    assert parameters(best_of=8, do_sample=True, seed=1).best_of == 8
    assert parameters(best_of=1).best_of == 1
    with pytest.raises(InvalidArgument, match="do_sample"):
        parameters(best_of=2, temperature=0.0, do_sample=True)


def test_a_reference_becomes_tokens() -> None:
    text = "y = 2\n" * 5
    valid = check(GenerateRequest("x", speculation=Speculation(num_tokens=3, reference=text)))
    assert valid.reference == tuple(TOKENIZER.encode(text, add_special_tokens=False))
    assert valid.speculation == Speculation(num_tokens=3)
    assert valid.token_request(1).reference == valid.reference
    assert check(GenerateRequest("x", speculation=Speculation(reference=""))).reference == ()


def test_a_reference_may_be_longer_than_a_prompt_but_not_endless() -> None:
    text = "y = 2\n" * 50
    count = len(TOKENIZER.encode(text))
    enough, too_few = -(-count // 4), (count - 1) // 4
    request = GenerateRequest("x", speculation=Speculation(reference=text))
    assert len(check(request, Limits(20, enough)).reference) == count > 4 * too_few
    with pytest.raises(InvalidArgument) as caught:
        check(request, Limits(20, too_few))
    assert caught.value.field == "speculation.reference"
    assert f"{count} tokens; {4 * too_few}" in caught.value.message


def test_edges_pass() -> None:
    edges = Parameters(
        max_new_tokens=1,
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        min_p=1.0,
        typical_p=1.0,
        frequency_penalty=-2.0,
        presence_penalty=2.0,
        seed=2**64 - 1,
        stop=tuple("abcdefghijklmnop"),
        truncate=1,
        return_k_alternatives=100,
        best_of=1,
        response_format=ResponseFormat("text"),
        logit_bias={0: -100.0, TOKENIZER.vocab_size - 1: 100.0},
    )
    valid = check(GenerateRequest("x = 1", "", "local", parameters=edges))
    assert len(valid.prompt) == 1
    assert valid.parameters.seed == 2**64 - 1


@pytest.mark.parametrize(
    "given",
    [{}, {"temperature": 0.0}, {"temperature": 0.0, "do_sample": True}, {"top_k": 0, "top_p": 1.0}],
)
def test_greedy(given: dict[str, Any]) -> None:
    resolved = parameters(**given)
    assert (resolved.temperature, resolved.do_sample, resolved.seed) == (0.0, False, None)


@pytest.mark.parametrize(
    "given",
    [
        {"do_sample": True},
        {"temperature": 1.0},
        {"top_k": 5},
        {"top_p": 0.5},
        {"typical_p": 0.5},
        {"min_p": 0.1},
    ],
)
def test_sampling_gets_a_temperature_and_a_seed(given: dict[str, Any]) -> None:
    resolved = parameters(**given)
    assert (resolved.temperature, resolved.do_sample) == (1.0, True)
    assert resolved.seed is not None and 0 <= resolved.seed < 2**64
    assert resolved.seed != parameters(**given).seed
    assert parameters(**given, seed=7).seed == 7


def test_room_for_the_answer() -> None:
    prompt = len(TOKENIZER.encode("x = 1"))
    assert parameters().max_new_tokens == LIMITS.max_total_tokens - prompt
    full = replace(LIMITS, max_total_tokens=prompt)
    with pytest.raises(InvalidArgument) as caught:
        check(GenerateRequest("x = 1"), full)
    assert caught.value.field == "inputs"


def test_truncation_makes_a_long_prompt_fit() -> None:
    text = "x = 1\n" * 20
    valid = check(GenerateRequest(text, parameters=Parameters(truncate=5)))
    assert valid.prompt == tuple(TOKENIZER.encode(text)[-5:])


def test_messages_become_a_prompt() -> None:
    messages = (Message("user", "hi"),)
    valid = check(GenerateRequest(messages=messages))
    assert valid.text == TOKENIZER.apply_chat_template(messages)
    assert TOKENIZER.decode(valid.prompt, skip_special_tokens=False) == valid.text


@pytest.mark.parametrize(
    ("asked", "default", "expected"),
    [
        (None, "", None),
        (None, "demo/a", "demo/a"),
        ("", "demo/a", "demo/a"),
        (BASE_MODEL, "demo/a", None),
        ("demo/b", "demo/a", "demo/b"),
        (BASE_MODEL, "", None),
    ],
)
def test_the_default_adapter(asked: str | None, default: str, expected: str | None) -> None:
    limits = replace(LIMITS, default_adapter=AdapterRef(default) if default else None)
    adapter = check(GenerateRequest("x", asked), limits).adapter
    assert (adapter.adapter_id if adapter else None) == expected


def test_the_request_an_engine_gets() -> None:
    request = GenerateRequest(
        "x", "a", "local", "r1", "secret", speculation=Speculation(medusa_adapter_id="m")
    )
    submitted = check(request).token_request(3)
    assert submitted.request_id == 3
    assert submitted.adapter == AdapterRef("a", "local", "r1", "secret")
    assert submitted.medusa == AdapterRef("m", "local", "", "secret")
    assert "secret" not in repr(submitted)
