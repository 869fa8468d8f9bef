"""Both clients against a real server: answers, errors, retries, deadlines, cancellation."""

from __future__ import annotations

import asyncio
import inspect
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from lorax_spec import AsyncClient, Client, types
from lorax_spec.client import Retry
from lorax_spec.errors import (
    ERRORS_BY_CODE,
    DeadlineExceeded,
    InvalidArgument,
    LoraxSpecError,
    Overloaded,
    Unavailable,
)
from tests.client.scripted import Running, ScriptedServer


def test_one_answer(call: Any, script: Any) -> None:
    response = call("generate", "a prompt", "demo/pirate", max_new_tokens=3, temperature=0.7)
    assert response.generated_text == "one two three"
    assert response.details.finish_reason is types.FinishReason.LENGTH
    asked = script.requests[0]
    assert (asked.inputs, asked.adapter_id) == ("a prompt", "demo/pirate")
    assert (asked.parameters.max_new_tokens, asked.parameters.temperature) == (3, 0.7)


def test_a_stream_ends_with_its_details(call: Any) -> None:
    events = call("generate_stream", "a prompt")
    assert [event.token.text for event in events[:-1]] == ["one ", "two ", "three"]
    assert all(event.details is None for event in events[:-1])
    assert events[-1].generated_text == "one two three"
    assert events[-1].details.generated_tokens == 3


def test_every_argument_reaches_the_server(call: Any, script: Any) -> None:
    call(
        "generate",
        "p",
        adapter_id="a",
        adapter_source="local",
        adapter_revision="main",
        api_token="secret",
        stop_sequences=["x", "y"],
        seed=7,
        return_full_text=True,
        decoder_input_details=True,
        return_k_alternatives=2,
        details=False,
        logit_bias={5: -1.5},
        response_format={"type": "json_schema", "schema": {"type": "object"}},
        merged_adapters={"ids": ["a", "b"], "weights": [0.5, 0.5]},
        best_of=3,
        speculation={
            "method": "medusa",
            "num_tokens": 4,
            "medusa_adapter_id": "heads",
            "reference": "the text that is edited",
        },
    )
    assert script.requests[0] == types.GenerateRequest(
        inputs="p",
        adapter_id="a",
        adapter_source="local",
        adapter_revision="main",
        api_token="secret",
        merged_adapters=types.MergedAdapters(("a", "b"), (0.5, 0.5)),
        parameters=types.Parameters(
            stop=("x", "y"),
            seed=7,
            return_full_text=True,
            decoder_input_details=True,
            return_k_alternatives=2,
            details=False,
            logit_bias={5: -1.5},
            response_format=types.ResponseFormat("json_schema", '{"type": "object"}'),
            best_of=3,
        ),
        speculation=types.Speculation(types.Method.MEDUSA, 4, "heads", "the text that is edited"),
    )


def test_a_conversation(call: Any, script: Any) -> None:
    call("chat", [{"role": "user", "content": "hello"}], max_new_tokens=2)
    events = call("chat_stream", [types.Message("user", "hello")])
    assert events[-1].details is not None
    first, second = script.requests
    assert first.messages == second.messages == (types.Message("user", "hello"),)


def test_the_other_calls(call: Any) -> None:
    assert call("info").model_id == "scripted"
    assert call("tokenize", "hello") == (types.InputToken(1, "hello", 0, 5),)
    assert call("tokenize", "hello", add_special_tokens=False)[0].start == 1
    assert [(a.adapter_id, a.kind) for a in call("list_adapters")] == [("a", "lora")]
    assert call("load_adapter", "x", adapter_source="local").source == "local"
    assert call("unload_adapter", "x").adapter_id == "x"
    assert call("pin_adapter", "x").pinned is True
    assert call("pin_adapter", "x", pinned=False).pinned is False


def test_who_calls_is_said_in_the_headers(call: Any, script: Any) -> None:
    options = {"api_key": "k", "api_token": "t", "headers": {"X-Team": "blue"}}
    call("generate", "p", options=options)
    assert script.metadata["authorization"] == "Bearer k"
    assert script.metadata["x-team"] == "blue"
    assert script.requests[0].api_token == "t"


@pytest.mark.parametrize("kind", [*ERRORS_BY_CODE.values(), LoraxSpecError])
@pytest.mark.parametrize("method", ["generate", "generate_stream"])
def test_every_status_has_its_class(
    call: Any, script: Any, kind: type[LoraxSpecError], method: str
) -> None:
    script.failures = [kind("no") for _ in range(9)]
    with pytest.raises(LoraxSpecError) as caught:
        call(method, "p")
    assert type(caught.value) is kind
    assert caught.value.message == "no"


def test_errors_say_which_field_and_when_to_come_back(call: Any, script: Any) -> None:
    script.failures = [InvalidArgument("no", field="top_p"), Overloaded("full", retry_after=1.5)]
    with pytest.raises(InvalidArgument) as wrong:
        call("generate", "p")
    with pytest.raises(Overloaded) as full:
        call("generate", "p")
    assert (wrong.value.field, full.value.retry_after) == ("top_p", 1.5)


@pytest.mark.parametrize("method", ["generate", "generate_stream", "info"])
def test_an_unavailable_server_is_tried_again(call: Any, script: Any, method: str) -> None:
    script.failures = [Unavailable("starting")] * 4
    call(method, *(() if method == "info" else ("p",)))
    assert script.calls == 5


@pytest.mark.parametrize("method", ["generate", "generate_stream"])
def test_trying_again_ends(call: Any, script: Any, method: str) -> None:
    script.failures = [Unavailable("gone")] * 99
    with pytest.raises(Unavailable):
        call(method, "p")
    assert script.calls == 5


@pytest.mark.parametrize("kind", [Overloaded, InvalidArgument])
def test_only_unavailable_is_tried_again(
    call: Any, script: Any, kind: type[LoraxSpecError]
) -> None:
    script.failures = [kind("no")]
    with pytest.raises(kind):
        call("generate", "p")
    assert script.calls == 1


def test_nothing_is_tried_again_after_the_first_token(call: Any, script: Any) -> None:
    script.failures, script.break_after = [Unavailable("worker lost")], 2
    with pytest.raises(Unavailable, match="worker lost"):
        call("generate_stream", "p")
    assert script.calls == 1


def test_a_stream_without_its_end_is_an_error(call: Any, script: Any) -> None:
    script.without_details = True
    with pytest.raises(Unavailable, match="last event"):
        call("generate_stream", "p")


@pytest.mark.parametrize("method", ["generate", "generate_stream"])
def test_deadlines(call: Any, script: Any, method: str) -> None:
    script.pause = 5.0
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        call(method, "p", timeout=0.2)
    with pytest.raises(DeadlineExceeded):
        call(method, "p", options={"timeout": 0.2})
    assert time.monotonic() - started < 3


def test_retries_share_the_deadline(call: Any, script: Any) -> None:
    script.failures = [Unavailable("gone")] * 99
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="gone"):
        call("generate", "p", options={"timeout": 0.3, "retry": Retry(99, 0.1, 2.0, 9.0)})
    assert time.monotonic() - started < 0.5


def test_a_server_that_comes_later_is_found() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    started: list[Any] = []
    timer = threading.Timer(0.7, lambda: started.append(Running(ScriptedServer(), address)))
    timer.start()
    with Client(address, timeout=20) as client:
        assert client.info().model_id == "scripted"
    timer.join()
    started[0].stop()


def test_leaving_a_stream_cancels_it(target: str, script: Any) -> None:
    script.words, script.pause = ["word "] * 1000, 0.05
    with Client(target) as client:
        for _ in client.generate_stream("p"):
            break
        assert script.cancelled.wait(5)


def test_leaving_an_awaited_stream_cancels_it(target: str, script: Any) -> None:
    script.words, script.pause = ["word "] * 1000, 0.05

    async def leave() -> None:
        async with AsyncClient(target) as client:
            async for _ in client.generate_stream("p"):
                break
            await asyncio.to_thread(script.cancelled.wait, 5)

    asyncio.run(leave())
    assert script.cancelled.is_set()


def test_cancelling_the_task_cancels_the_call(target: str, script: Any) -> None:
    script.words, script.pause = ["word "] * 1000, 0.05

    async def leave() -> None:
        async with AsyncClient(target) as client:
            stream = client.generate_stream("p")
            await anext(stream)
            task = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.to_thread(script.cancelled.wait, 5)

    asyncio.run(leave())
    assert script.cancelled.is_set()


def test_unknown_arguments_are_named(call: Any, script: Any) -> None:
    with pytest.raises(TypeError, match="adapter_name"):
        call("generate", "p", adapter_name="x")
    with pytest.raises(TypeError, match="length"):
        call("generate", "p", speculation={"length": 3})
    with pytest.raises(TypeError, match="stop_sequences"):
        call("generate", "p", stop=["a"], stop_sequences=["b"])
    with pytest.raises(InvalidArgument, match="luck") as caught:
        call("generate", "p", speculation={"method": "luck"})
    assert caught.value.field == "speculation.method"
    assert script.calls == 0


def test_one_stop_string_is_one_stop_string(call: Any, script: Any) -> None:
    call("generate", "p", stop="abc")
    assert script.requests[0].parameters.stop == ("abc",)


def test_a_url_is_not_a_target() -> None:
    with pytest.raises(ValueError, match="host:port"):
        Client("http://localhost:8080")


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert public(Client) == public(AsyncClient)


def test_a_client_needs_neither_torch_nor_tokenizers() -> None:
    probe = (
        "import sys; from lorax_spec import Client, AsyncClient; import lorax_spec.wire;"
        "print({'torch', 'tokenizers', 'transformers', 'numpy', 'typer'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
