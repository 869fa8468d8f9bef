"""The clients that people have, unmodified, get from HTTP what our own gets from gRPC."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import InferenceClient, constants
from huggingface_hub.errors import ValidationError

from lorax_spec import Client
from tests.cli.processes import Server
from tests.serving.clients import environment
from tests.serving.web import web_router
from tests.worker.processes import fake_worker

pytestmark = pytest.mark.slow

PROMPT = "def add(a, b):\n"
MERGED = {
    "ids": ["demo/pirate", "demo/tests"],
    "weights": [0.7, 0.3],
    "merge_strategy": "ties",
    "density": 0.5,
}
#: The cases of lorax_calls.py, for our own client.
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "adapter": {"adapter_id": "demo/pirate"},
    "heads": {"adapter_id": "demo/medusa"},
    "merged": {"merged_adapters": MERGED},
    "sampled": {"temperature": 0.8, "top_p": 0.9, "top_k": 20, "seed": 7},
    "stop": {"stop_sequences": ["\n\n"], "adapter_id": "demo/pirate"},
    "format": {"response_format": {"type": "json_object", "schema": {"type": "boolean"}}},
    "penalty": {"repetition_penalty": 1.3, "return_full_text": True},
    "truncated": {"truncate": 3, "typical_p": 0.9, "seed": 1, "ignore_eos_token": True},
    "prefill": {"decoder_input_details": True, "return_k_alternatives": 3},
}


def test_loraxs_own_client(server: Server) -> None:
    found = environment.run("lorax_calls.py", f"http://{server.http}")
    texts = set()
    with Client(server.grpc) as client:
        for name, options in CASES.items():
            ours = client.generate(PROMPT, max_new_tokens=16, **options)
            ids = [token.id for token in ours.details.tokens]
            texts.add(ours.generated_text)
            for way, answer in found[name].items():
                assert answer["text"] == ours.generated_text, (name, way)
                details = answer["details"]
                assert details["generated_tokens"] == len(ids), (name, way)
                assert details["prompt_tokens"] == ours.details.prompt_tokens
                assert details["finish_reason"] == ours.details.finish_reason
                assert details["seed"] == ours.details.seed
                if "stream" in way:
                    assert answer["tokens"] == ids, (name, way)
                    assert set(answer["early"]) <= {None}
                else:
                    assert [token["id"] for token in details["tokens"]] == ids
    assert len(texts) > 6, "the cases differ"
    prefill = found["prefill"]["sync"]["details"]
    assert [len(token["alternative_tokens"]) for token in prefill["tokens"]] == [3] * 16
    assert prefill["prefill"][0]["logprob"] is None and prefill["prefill"][1]["logprob"] < 0
    best = found["best"]["sync"]
    with Client(server.grpc) as client:
        seed = best["details"]["seed"]
        alone = client.generate(PROMPT, max_new_tokens=16, temperature=0.9, seed=seed)
    assert best["text"] == alone.generated_text


def test_every_error_is_of_its_class_in_loraxs_client() -> None:
    with (
        fake_worker(step_seconds=0.02) as (_, worker),
        web_router(worker, max_concurrent_requests=1, worker_patience=0.5) as address,
    ):
        found = environment.run("lorax_calls.py", f"http://{address}", "errors")
    wanted = {
        "unknown": "NotFoundError: no adapter 'nobody/here'",
        "misfit": "GenerationError: hidden size 64, not 256",
        "private": "ShardNotReadyError: not for this token",
        "too long": "ValidationError: `max_new_tokens` may be at most",
        "full": "OverloadedError: 1 of 1 requests",
        "poison": "IncompleteGenerationError: the engine failed",
        "gone": "UnknownError: Error status 503: no worker came",
    }
    assert {*found} == {*wanted}
    for name, said in found.items():
        assert all(text.startswith(wanted[name]) for text in said), (name, said)


def test_tgis_own_client(server: Server) -> None:
    found = environment.run("tgi_calls.py", f"http://{server.http}")
    with Client(server.grpc) as client:
        ours = client.generate(PROMPT, max_new_tokens=12)
        messages = [{"role": "user", "content": "def add("}]
        chat = client.chat(messages, max_new_tokens=8)
    whole, events = found["whole"], found["stream"]
    assert whole["generated_text"] == events[-1]["generated_text"] == ours.generated_text
    assert found["async"] == "".join(found["async stream"]) == ours.generated_text
    assert [event["token"]["text"] for event in events] == found["async stream"]
    assert len(events) == events[-1]["details"]["generated_tokens"] == 12
    assert [len(tops) for tops in whole["details"]["top_tokens"]] == [2] * 12
    assert [len(event["top_tokens"]) for event in events] == [2] * 12
    assert found["grammar"] in ("true", "false")
    assert found["chat"]["choices"][0]["message"]["content"] == chat.generated_text
    assert found["error"] == "ValidationError"


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite has the hub's library offline; here it calls nobody but our server."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_huggingface_hubs_text_generation(server: Server, online: None) -> None:
    hub = InferenceClient(f"http://{server.http}")
    options: dict[str, Any] = {"max_new_tokens": 12, "adapter_id": "demo/pirate"}
    with Client(server.grpc) as client:
        ours = client.generate(PROMPT, "demo/pirate", max_new_tokens=12)
        base = client.generate(PROMPT, max_new_tokens=12)
    assert ours.generated_text != base.generated_text
    assert hub.text_generation(PROMPT, **options) == ours.generated_text
    assert "".join(hub.text_generation(PROMPT, stream=True, **options)) == ours.generated_text
    whole = hub.text_generation(PROMPT, details=True, **options)
    assert whole.details is not None and whole.details.generated_tokens == 12
    *_, last = hub.text_generation(PROMPT, details=True, stream=True, **options)
    assert last.generated_text == ours.generated_text
    assert last.details is not None and last.details.input_length == ours.details.prompt_tokens
    with pytest.raises(ValidationError, match="top_p"):
        hub.text_generation(PROMPT, top_p=2.0, max_new_tokens=2)


def test_huggingface_hubs_chat(server: Server, online: None) -> None:
    hub = InferenceClient(base_url=f"http://{server.http}/v1")
    messages = [{"role": "user", "content": "def add("}]
    with Client(server.grpc) as client:
        for name in (None, "demo/pirate"):
            ours = client.chat(messages, name, max_new_tokens=12).generated_text
            answer = hub.chat_completion(messages, model=name, max_tokens=12, temperature=0)
            assert answer.choices[0].message.content == ours
            events = hub.chat_completion(
                messages, model=name, max_tokens=12, temperature=0, stream=True
            )
            parts = [event.choices[0].delta.content or "" for event in events]
            assert "".join(parts) == ours
