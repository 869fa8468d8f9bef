"""OpenAI's own client against the real server."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai import OpenAI

from lorax_spec import Client
from tests.cli.processes import Server
from tests.serving.web import ask, web_router
from tests.worker.processes import fake_worker

pytestmark = pytest.mark.slow

PROMPT = "def add(a, b):\n"
MESSAGES: Any = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "def add("}]},
]


def test_models_are_the_base_and_every_adapter(client: OpenAI, ours: Client) -> None:
    models = {model.id: model for model in client.models.list()}
    assert {*models} == {"base", *(one.adapter_id for one in ours.list_adapters())}
    assert all(abs(model.created - time.time()) < 3600 for model in models.values())
    one = client.models.retrieve("demo/pirate")
    assert one.model_extra is not None and one.model_extra["parent"] == "base"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody/here")


@pytest.mark.parametrize("name", ["", "base", "demo/pirate"])
def test_a_completion_is_what_grpc_says(client: OpenAI, ours: Client, name: str) -> None:
    options: dict[str, Any] = {"model": name, "prompt": PROMPT, "max_tokens": 24, "temperature": 0}
    wanted = ours.generate(PROMPT, name if "/" in name else None, max_new_tokens=24)
    answer = client.completions.create(**options)
    (choice,) = answer.choices
    assert choice.text == wanted.generated_text
    assert (choice.finish_reason, answer.model) == ("length", name or "base")
    assert answer.id.startswith("cmpl-") and abs(answer.created - time.time()) < 60
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24
    assert answer.usage.total_tokens == 24 + wanted.details.prompt_tokens
    events = [*client.completions.create(stream=True, **options)]
    assert len({event.id for event in events}) == 1
    assert "".join(event.choices[0].text for event in events) == choice.text
    assert [event.choices[0].finish_reason for event in events][-2:] == [None, "length"]
    echoed = client.completions.create(echo=True, **options).choices[0].text
    assert echoed == PROMPT + choice.text


def test_sampling_follows_the_seed(client: OpenAI, ours: Client) -> None:
    options: dict[str, Any] = {"model": "", "prompt": PROMPT, "max_tokens": 16, "seed": -5}
    both = client.completions.create(n=2, **options).choices
    assert both[0].text == client.completions.create(**options).choices[0].text != both[1].text
    wanted = ours.generate(PROMPT, max_new_tokens=16, temperature=1.0, seed=2**64 - 5)
    assert both[0].text == wanted.generated_text
    parts = {0: "", 1: ""}
    usage = None
    for event in client.completions.create(
        n=2, stream=True, stream_options={"include_usage": True}, **options
    ):
        usage = event.usage or usage
        for choice in event.choices:
            parts[choice.index] += choice.text
    assert [*parts.values()] == [choice.text for choice in both]
    assert usage is not None
    assert usage.prompt_tokens == wanted.details.prompt_tokens, "it was read once"
    assert usage.completion_tokens > wanted.details.generated_tokens


def test_several_prompts(client: OpenAI, ours: Client) -> None:
    prompts = [PROMPT, "class A"]
    answer = client.completions.create(model="", prompt=prompts, max_tokens=6, temperature=0)
    wanted = [ours.generate(prompt, max_new_tokens=6) for prompt in prompts]
    assert [choice.text for choice in answer.choices] == [one.generated_text for one in wanted]
    assert [choice.index for choice in answer.choices] == [0, 1]


def test_stop_and_penalties_and_bias(client: OpenAI, ours: Client) -> None:
    whole = ours.generate(PROMPT, max_new_tokens=32).generated_text
    stop = whole[8:11]
    options: dict[str, Any] = {"model": "", "prompt": PROMPT, "max_tokens": 32, "temperature": 0}
    for given in (stop, ["never there", stop]):
        choice = client.completions.create(stop=given, **options).choices[0]
        assert (choice.text, choice.finish_reason) == (whole[: whole.index(stop)], "stop")
    (token,) = {token.id for token in ours.tokenize("x", add_special_tokens=False)}
    biased = client.completions.create(logit_bias={str(token): 100}, **options).choices[0].text
    assert biased == "x" * 32
    plain = client.completions.create(
        presence_penalty=2, frequency_penalty=1, extra_body={"repetition_penalty": 1.5}, **options
    )
    wanted = ours.generate(
        PROMPT,
        max_new_tokens=32,
        presence_penalty=2,
        frequency_penalty=1,
        repetition_penalty=1.5,
    )
    assert plain.choices[0].text == wanted.generated_text != whole


def test_logprobs(client: OpenAI, ours: Client) -> None:
    wanted = ours.generate(
        PROMPT, max_new_tokens=8, return_k_alternatives=3, decoder_input_details=True
    ).details
    options: dict[str, Any] = {"model": "", "max_tokens": 8, "temperature": 0}
    told = client.completions.create(prompt=PROMPT, logprobs=3, **options).choices[0].logprobs
    assert told is not None and told.tokens == [token.text for token in wanted.tokens]
    assert told.token_logprobs == pytest.approx([token.logprob for token in wanted.tokens])
    assert told.top_logprobs is not None
    assert all(token in tops for token, tops in zip(told.tokens, told.top_logprobs, strict=True))
    echoed = client.completions.create(prompt=PROMPT, logprobs=1, echo=True, **options).choices[0]
    assert echoed.logprobs is not None and echoed.logprobs.token_logprobs is not None
    assert echoed.logprobs.token_logprobs[0] is None
    assert len(echoed.logprobs.token_logprobs) == len(wanted.prefill) + 8
    for start, token in zip(
        echoed.logprobs.text_offset or (), echoed.logprobs.tokens or (), strict=True
    ):
        assert echoed.text[start:].startswith(token)
    chat = client.chat.completions.create(
        messages=MESSAGES, logprobs=True, top_logprobs=2, **options
    ).choices[0]
    assert chat.logprobs is not None and chat.logprobs.content is not None
    assert "".join(one.token for one in chat.logprobs.content) == chat.message.content
    assert all(len(one.top_logprobs) == 2 for one in chat.logprobs.content)
    assert all(one.bytes == [*one.token.encode()] for one in chat.logprobs.content)
    streamed = [
        one.logprob
        for event in client.chat.completions.create(
            messages=MESSAGES, logprobs=True, stream=True, **options
        )
        if event.choices[0].logprobs is not None
        for one in event.choices[0].logprobs.content or ()
    ]
    assert streamed == pytest.approx([one.logprob for one in chat.logprobs.content], abs=1e-4)


@pytest.mark.parametrize("name", ["", "demo/tests"])
def test_a_chat_is_what_grpc_says(client: OpenAI, ours: Client, name: str) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "def add("}]
    wanted = ours.chat(messages, name or None, max_new_tokens=24).generated_text
    options: dict[str, Any] = {"model": name, "messages": MESSAGES, "temperature": 0}
    for limit in ("max_tokens", "max_completion_tokens"):
        answer = client.chat.completions.create(**{limit: 24}, **options)
        assert answer.choices[0].message.content == wanted
        assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    *events, last = client.chat.completions.create(
        max_tokens=24, stream=True, stream_options={"include_usage": True}, **options
    )
    deltas = [event.choices[0].delta for event in events]
    assert [delta.role for delta in deltas] == ["assistant", *[None] * (len(deltas) - 1)]
    assert "".join(delta.content or "" for delta in deltas) == wanted
    assert sum(bool(delta.content) for delta in deltas) > 12, "token by token"
    reasons = [event.choices[0].finish_reason for event in events]
    assert reasons[:-1] == [None] * (len(events) - 1) and reasons[-1] in ("length", "stop")
    assert last.choices == [] and last.usage.total_tokens == answer.usage.total_tokens


def test_speculation_is_an_extra_field_and_changes_no_text(client: OpenAI) -> None:
    prompt = "for a in range(10):\n    print(a)\nfor a in range(10):\n"
    options: dict[str, Any] = {
        "model": "demo/medusa",
        "prompt": prompt,
        "max_tokens": 32,
        "temperature": 0,
    }
    texts, accepted = set(), {}
    for method in ("none", "prompt_lookup", "medusa", "auto"):
        chosen = {"method": method, "num_tokens": 0 if method == "none" else 3}
        answer = client.completions.create(extra_body={"speculation": chosen}, **options)
        texts.add(answer.choices[0].text)
        assert answer.usage is not None and answer.usage.completion_tokens_details is not None
        accepted[method] = answer.usage.completion_tokens_details.accepted_prediction_tokens
    assert len(texts) == 1
    assert [bool(count) for count in accepted.values()] == [False, True, True, True], accepted


def test_a_prediction_is_looked_up(client: OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "",
        "messages": MESSAGES,
        "max_tokens": 32,
        "temperature": 0,
        "extra_body": {"speculation": {"method": "prompt_lookup", "num_tokens": 4}},
    }
    plain = client.chat.completions.create(**options)
    text = plain.choices[0].message.content
    predicted = client.chat.completions.create(
        prediction={"type": "content", "content": text}, **options
    )
    assert predicted.choices[0].message.content == text
    counts = [
        answer.usage.completion_tokens_details.accepted_prediction_tokens
        for answer in (plain, predicted)
    ]
    assert counts[1] > counts[0] + 5, counts


@pytest.mark.parametrize("path", ["completions", "chat"])
@pytest.mark.parametrize(
    ("options", "kind", "param", "code"),
    [
        ({"model": "nobody/here"}, openai.NotFoundError, "model", "model_not_found"),
        ({"temperature": -1}, openai.BadRequestError, "temperature", "invalid_value"),
        ({"max_tokens": 10**6}, openai.BadRequestError, "max_tokens", "invalid_value"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens", "invalid_value"),
        ({"n": 0}, openai.BadRequestError, "n", "invalid_value"),
        ({"n": 500}, openai.BadRequestError, "n", "invalid_value"),
        ({"adapter": "x"}, openai.BadRequestError, "adapter", "invalid_value"),
        ({"seed": 0.5}, openai.BadRequestError, "seed", "invalid_value"),
        ({"logit_bias": {"a": 1.0}}, openai.BadRequestError, "logit_bias", "invalid_value"),
        ({"suffix": "x"}, openai.BadRequestError, "suffix", "invalid_value"),
    ],
)
def test_errors_are_openais(
    client: OpenAI,
    path: str,
    options: Any,
    kind: type[openai.APIStatusError],
    param: str,
    code: str,
) -> None:
    body = {"model": "", "max_tokens": 2, **options}
    body |= {"messages": MESSAGES} if path == "chat" else {"prompt": PROMPT}
    for stream in (False, True):
        address = "/chat/completions" if path == "chat" else "/completions"
        with pytest.raises(kind) as caught:
            client.post(address, body={**body, "stream": stream}, cast_to=object)
        assert (caught.value.param, caught.value.code) == (param, code), caught.value
        assert caught.value.type == "invalid_request_error"


def test_a_prompt_that_is_nothing_is_named(client: OpenAI) -> None:
    for prompt in ("", []):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="", prompt=prompt)
        assert caught.value.param == "prompt"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="", messages=[])
    assert caught.value.param == "messages"
    missing = ask(str(client.base_url.netloc.decode()), "/v1/completions", "{")
    assert missing.status == 400 and "not JSON" in missing.json["error"]["message"]


def test_other_ends_have_their_classes() -> None:
    with fake_worker() as (_, worker), web_router(worker, worker_patience=0.3) as address:
        client = OpenAI(base_url=f"http://{address}/v1", api_key="any", max_retries=0)

        def status(model: str, prompt: str = "x", stream: bool = False) -> int:
            with pytest.raises(openai.APIStatusError) as caught:
                client.completions.create(model=model, prompt=prompt, stream=stream)
            assert isinstance(caught.value.body, dict)
            return caught.value.status_code

        assert status("demo/misfit") == 424
        assert status("demo/private") == 403
        assert status("", "poison", stream=True) == 500
        assert status("") == 503


def test_one_choice_that_fails_ends_them_all(server: Server) -> None:
    """And nothing of them is left."""
    body = {"model": "nobody/here", "prompt": "x", "n": 4}
    with ThreadPoolExecutor(4) as threads:
        answers = threads.map(lambda _: ask(server.http, "/v1/completions", body), range(8))
        assert {answer.status for answer in answers} == {404}
    assert ask(server.http, "/health").status == 200
