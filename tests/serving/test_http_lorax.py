"""LoRAX's and TGI's JSON: what is answered, what is refused, and what becomes of a caller who
leaves, comes too early or comes too late."""

from __future__ import annotations

import http.client
import json
import signal
import time
from typing import Any

import pytest

from lorax_spec import Client
from tests.cli.processes import Server, eventually
from tests.serving.web import Answer, ask, web_router
from tests.worker.processes import fake_worker, process

pytestmark = pytest.mark.slow

PROMPT = "for a in range(10):\n    print(a)\nfor a in range(10):\n"
LOOKUP = {"method": "prompt_lookup", "num_tokens": 3}
TIMES = (
    *("total-time", "compute-time", "validation-time", "queue-time", "inference-time"),
    *("adapter-load-time", "time-per-token", "time-to-first-token", "time-per-output-token"),
)


def generate(server: Server, path: str = "/generate", **parameters: Any) -> Answer:
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 24, "details": True, **parameters}}
    return ask(server.http, path, body)


def test_one_answer_and_its_headers(server: Server) -> None:
    asked = {"adapter_id": "demo/pirate", "speculation": LOOKUP}
    answer = generate(server, **asked)
    with Client(server.grpc) as client:
        ours = client.generate(PROMPT, "demo/pirate", max_new_tokens=24, speculation=LOOKUP)
    details = answer.json["details"]
    assert answer.json["generated_text"] == ours.generated_text
    assert [token["text"] for token in details["tokens"]] == [
        token.text for token in ours.details.tokens
    ]
    assert [token["skipped"] for token in details["tokens"]] == [
        token.skipped for token in ours.details.tokens
    ]
    counts = ours.details.speculation
    assert counts.accepted_tokens > 0, "else the next line proves nothing"
    assert details["speculation"]["accepted_tokens"] == counts.accepted_tokens
    said = {name.removeprefix("x-"): value for name, value in answer.headers.items()}
    assert said["adapter-id"] == "demo/pirate"
    assert said["generated-tokens"] == "24"
    assert said["skipped-tokens"] == str(ours.details.skipped_tokens)
    assert said["accepted-tokens"] == str(counts.accepted_tokens)
    assert said["prompt-tokens"] == str(ours.details.prompt_tokens)
    assert said["total-tokens"] == str(24 + ours.details.prompt_tokens)
    assert said["compute-characters"] == str(len(PROMPT))
    assert said["compute-type"] == "cpu" and "model-id" in said
    assert all(0 <= int(said[name]) < 60_000 for name in TIMES)
    assert int(said["total-time"]) >= int(said["time-to-first-token"])


def test_details_only_where_asked(server: Server) -> None:
    assert generate(server, details=False).json["details"] is None
    body = {"inputs": PROMPT, "parameters": None}
    assert ask(server.http, "/generate", {**body, "parameters": {"max_new_tokens": 2}}).json[
        "generated_text"
    ]


def test_a_stream_has_an_event_for_each_token(server: Server) -> None:
    for name in (None, "demo/medusa"):
        whole = generate(server, adapter_id=name, speculation=LOOKUP).json
        answer = generate(server, "/generate_stream", adapter_id=name, speculation=LOOKUP)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        *_, last = events = answer.events
        assert [event["index"] for event in events] == [*range(1, 25)]
        assert [event["token"]["id"] for event in events] == [
            token["id"] for token in whole["details"]["tokens"]
        ]
        assert "".join(event["token"]["text"] for event in events) == whole["generated_text"]
        assert [event["generated_text"] for event in events[:-1]] == [None] * 23
        assert last["generated_text"] == whole["generated_text"]
        told, skipped = last["details"], [event["token"]["skipped"] for event in events]
        assert told["skipped_tokens"] == sum(skipped) > 0
        assert told["speculation"]["accepted_tokens"] >= sum(skipped)
        assert told["speculation"]["forward_passes"] == 24 - sum(skipped)


def test_the_last_event_has_its_token_where_a_stop_string_ends_it(server: Server) -> None:
    whole = generate(server).json["generated_text"]
    stop = whole[6:9]
    *_, last = events = generate(server, "/generate_stream", stop=[stop]).events
    assert last["details"]["finish_reason"] == "stop_sequence"
    assert last["generated_text"] == whole[: whole.index(stop)]
    assert len(events) == last["details"]["generated_tokens"]


def test_as_loraxs_client_asks(server: Server) -> None:
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 5}}
    (one,) = ask(server.http, "/", {**body, "stream": False}).json
    *_, last = ask(server.http, "/", {**body, "stream": True}).events
    assert one["generated_text"] == last["generated_text"]


def test_a_chat_template_is_applied_where_asked(server: Server) -> None:
    answer = generate(server, apply_chat_template=True, return_full_text=True).json
    assert answer["generated_text"].startswith(f"<|im_start|>user\n{PROMPT}<|im_end|>")


def test_what_else_is_answered(server: Server) -> None:
    for path in ("/health", "/ping", "/startup", "/"):
        assert ask(server.http, path).status == 200, path
    info = ask(server.http, "/info").json
    assert (info["max_total_tokens"], info["speculative_tokens"]) == (512, 3)
    assert {"model_id", "model_dtype", "max_best_of", "max_stop_sequences"} <= set(info)
    pieces = ask(server.http, "/tokenize", {"inputs": "def x"}).json
    assert "".join(piece["text"] for piece in pieces) == "def x"
    assert pieces[-1]["stop"] == 5
    page, document = ask(server.http, "/docs"), ask(server.http, "/openapi.json").json
    assert "/generate_stream" in page.content.decode()
    for outside in (b"http://", b"https://", b"src="):
        assert outside not in page.content
    assert {"/generate", "/adapters", "/v1/chat/completions"} <= set(document["paths"])


@pytest.mark.parametrize(
    ("parameters", "status", "kind", "text"),
    [
        ({"adapter_id": "nobody/here"}, 404, "adapter_not_found", "nobody/here"),
        ({"temperature": -1}, 422, "validation", "temperature"),
        ({"temperature": "hot"}, 422, "validation", "parameters.temperature"),
        ({"top_p": 1e-300}, 422, "validation", "top_p"),
        ({"repetition_penalty": 1e300}, 422, "validation", "repetition_penalty"),
        ({"top_k": 2**40}, 422, "validation", "top_k"),
        ({"adapter_name": "demo/pirate"}, 422, "validation", "parameters.adapter_name"),
        ({"speculation": {"tokens": 3}}, 422, "validation", "parameters.speculation.tokens"),
        ({"adapter_source": "pbase"}, 422, "validation", "adapter_source"),
        ({"watermark": True}, 422, "validation", "watermark"),
        ({"max_new_tokens": 10**6}, 422, "validation", "max_new_tokens"),
        ({"response_format": {"type": "regex", "schema": "("}}, 422, "validation", ""),
        ({"merged_adapters": {"ids": []}}, 422, "validation", "ids"),
        ({"logit_bias": {"x": 1.0}}, 422, "validation", "logit_bias"),
        ({"stop": "\n"}, 422, "validation", "parameters.stop"),
    ],
)
def test_what_is_refused(
    server: Server, parameters: dict[str, Any], status: int, kind: str, text: str
) -> None:
    for path in ("/generate", "/generate_stream"):
        answer = generate(server, path, **parameters)
        assert (answer.status, answer.json["error_type"]) == (status, kind), answer.content
        assert text in answer.json["error"]
        assert set(answer.json) == {"error", "error_type"}


def test_what_is_no_request_at_all(server: Server) -> None:
    wanted = {
        "": 422,
        "{": 422,
        "[]": 422,
        "{}": 422,
        '{"inputs": "x", "input": "y"}': 422,
        '{"inputs": "\\ud800"}': 422,
        '{"inputs": "x", "\\ud800": 1}': 422,
        '{"inputs": ' + "[" * 10**5: 400,
        '{"inputs": "x", "parameters": {"seed": ' + "9" * 5000 + "}}": 400,
    }
    for body, status in wanted.items():
        answer = ask(server.http, "/generate", body)
        assert answer.status in (status, 422), (body[:40], answer.content)
        assert set(answer.json) == {"error", "error_type"}
    plain = ask(server.http, "/generate", '{"inputs": "x"}', content_type="text/plain")
    assert plain.status == 422 and "Content-Type" in plain.json["error"]
    assert ask(server.http, "/nowhere").json["error_type"] == "not_found"
    assert ask(server.http, "/generate", method="PUT").status == 405
    odd = ask(server.http, "/nowhere", host="[")
    assert odd.status in (400, 404), "a host that is none does not trouble it"


def test_adapters_are_loaded_pinned_and_dropped(server: Server) -> None:
    def known() -> dict[str, Any]:
        return {one["adapter_id"]: one for one in ask(server.http, "/adapters").json}

    name = "demo/tests-medusa"
    assert known()[name]["pinned"] is False
    loaded = ask(server.http, "/adapters", {"adapter_id": name}).json
    assert (loaded["adapter_id"], loaded["state"]) == (name, "device")
    assert ask(server.http, f"/adapters/{name}/pin", "").json["pinned"] is True
    assert known()[name]["pinned"] is True
    assert ask(server.http, f"/adapters/{name}/unpin", "").json["pinned"] is False
    assert ask(server.http, f"/adapters/{name}", method="DELETE").status == 200
    eventually(lambda: bool(known()[name]["state"] != "device"))
    assert ask(server.http, "/adapters", {"adapter_id": "nobody/here"}).status == 404
    assert ask(server.http, "/adapters/nobody/pin", "").status == 404


def test_who_leaves_ends_the_request() -> None:
    """Ten seconds of it were left, and there is one place in the house."""
    own = {"inputs": "x", "parameters": {"max_new_tokens": 400}}
    prompt = {"model": "", "prompt": "x", "max_tokens": 400}
    chat = {"model": "", "messages": [{"role": "user", "content": "x"}], "max_tokens": 400}
    bodies = {
        "/generate": own,
        "/generate_stream": own,
        "/v1/completions": prompt,
        "/v1/completions?stream": {**prompt, "stream": True},
        "/v1/chat/completions": chat,
        "/v1/chat/completions?stream": {**chat, "stream": True},
    }
    with (
        fake_worker(step_seconds=0.05) as (_, worker),
        web_router(worker, max_concurrent_requests=1) as address,
    ):

        def status() -> int:
            body = {"inputs": "x", "parameters": {"max_new_tokens": 1}}
            return ask(address, "/generate", body).status

        for path, body in bodies.items():
            connection = http.client.HTTPConnection(address, timeout=30)
            head = {"content-type": "application/json"}
            connection.request("POST", path, json.dumps(body), head)
            time.sleep(0.2)  # else the next may be there before it
            assert status() == 429, path
            if "stream" in path:
                assert connection.getresponse().readline().startswith(b"data: ")
            connection.close()
            eventually(lambda: status() == 200, 2)


def test_a_full_house_says_when_to_come_back() -> None:
    with (
        fake_worker(step_seconds=0.02) as (_, worker),
        web_router(worker, max_concurrent_requests=1) as address,
    ):
        connection = http.client.HTTPConnection(address, timeout=30)
        body = {"inputs": "x", "parameters": {"max_new_tokens": 400}}
        head = {"content-type": "application/json"}
        connection.request("POST", "/generate_stream", json.dumps(body), head)
        response = connection.getresponse()
        assert response.readline().startswith(b"data: ")
        for path in ("/generate", "/generate_stream"):
            refused = ask(address, path, body)
            assert (refused.status, refused.json["error_type"]) == (429, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
        refused = ask(address, "/v1/completions", {"model": "", "prompt": "x"})
        assert (refused.status, refused.json["error"]["code"]) == (429, "rate_limit_exceeded")
        assert ask(address, "/startup").status == 200, "it is busy, not broken"
        connection.close()
        response.close()
        small = {"inputs": "x", "parameters": {"max_new_tokens": 2}}
        eventually(lambda: ask(address, "/generate", small).status == 200, 5)


def test_an_error_amid_a_stream_is_its_last_event() -> None:
    with fake_worker() as (child, worker), web_router(worker, worker_patience=0.2) as address:
        connection = http.client.HTTPConnection(address, timeout=30)
        body = {"inputs": "x", "parameters": {"max_new_tokens": 400}}
        head = {"content-type": "application/json"}
        connection.request("POST", "/generate_stream", json.dumps(body), head)
        response = connection.getresponse()
        assert response.readline().startswith(b"data: ")
        child.kill()
        *_, last = response.read().decode().strip().split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error_type"] == "unavailable"
        assert ask(address, "/health").json["error_type"] == "healthcheck"
        assert ask(address, "/health").status == ask(address, "/startup").status == 503


def test_an_event_waits_for_no_acknowledgement(server: Server) -> None:
    """On a connection that is kept, where the system delays acknowledgements by 40 ms."""
    connection = http.client.HTTPConnection(server.http, timeout=30)
    body = json.dumps({"inputs": PROMPT, "parameters": {"max_new_tokens": 2}})
    waits = []
    for _ in range(9):
        head = {"content-type": "application/json"}
        connection.request("POST", "/generate_stream", body, head)
        response = connection.getresponse()
        began = time.monotonic()
        assert response.readline().startswith(b"data: ")
        waits.append(time.monotonic() - began)
        response.read()
    connection.close()
    assert sorted(waits)[4] < 0.03, waits


def test_sigterm_lets_a_stream_end() -> None:
    options = {"grpc_port": 0, "http_port": 0}
    with fake_worker(step_seconds=0.01) as (_, worker):
        words = ("-m", "tests.router.run_router", json.dumps({"workers": [worker], **options}))
        with process(*words) as (router, ready):
            address = ready.split()[1]
            connection = http.client.HTTPConnection(address, timeout=30)
            body = {"inputs": "x", "parameters": {"max_new_tokens": 300}}
            head = {"content-type": "application/json"}
            connection.request("POST", "/generate_stream", json.dumps(body), head)
            response = connection.getresponse()
            response.readline()
            router.send_signal(signal.SIGTERM)
            eventually(lambda: ask(address, "/health").status == 503, 5)
            late = ask(address, "/generate", body)
            assert (late.status, late.json["error_type"]) == (503, "unavailable")
            *_, last = response.read().decode().strip().split("\n\n")
            assert json.loads(last.removeprefix("data: "))["details"]["generated_tokens"] == 300
            began = time.monotonic()
            assert router.wait(10) == 0
            assert time.monotonic() - began < 4
