"""A real server that asks for keys, speaks TLS on both ports, and tells what it does."""

from __future__ import annotations

import json
import os
import signal
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lorax_spec import Client, PermissionDenied, Response, Unauthenticated, Unavailable
from lorax_spec.client import Retry
from lorax_spec.router.keys import Role, new_key
from tests.cli.processes import Server, eventually, run
from tests.standins.authority import Pair, StandInAuthority
from tests.standins.collector import StandInCollector
from tests.worker.processes import fake_worker, process

pytestmark = pytest.mark.slow

USER, USERS = new_key(Role.USER, "bob")
ADMIN, ADMINS = new_key(Role.ADMIN, "alice")
PROMPT = "import unittest\n\nclass Test"
ONCE = Retry(attempts=0)
BODY = {"inputs": PROMPT, "parameters": {"max_new_tokens": 8}}
Figures = dict[tuple[str, ...], float]


@dataclass
class Secured:
    server: Server
    keys: Path
    ca: Path

    def client(self, key: str | None) -> Client:
        return Client(self.server.grpc, api_key=key, tls_ca=self.ca, retry=ONCE)

    def http(
        self, path: str, key: str | None = None, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        return http(f"https://{self.server.http}{path}", trust(self.ca), key, body, **headers)

    def figures(self) -> Figures:
        """By sample and label values, in their order."""
        status, _, text = self.http("/metrics", USER)
        assert status == 200
        return {
            (one.name, *(one.labels[name] for name in sorted(one.labels))): one.value
            for family in text_string_to_metric_families(text.decode())
            for one in family.samples
        }


def trust(ca: Path, own: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    if own is not None:
        context.load_cert_chain(own.cert, own.key)
    return context


def http(
    url: str, context: ssl.SSLContext, key: str | None = None, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    asked = urllib.request.Request(url, content, {"content-type": "application/json", **headers})
    if key is not None:
        asked.add_header("authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(asked, timeout=30, context=context) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


@pytest.fixture(scope="module")
def collector() -> Iterator[StandInCollector]:
    with StandInCollector() as collector:
        yield collector


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> StandInAuthority:
    return StandInAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(
    authority: StandInAuthority,
    collector: StandInCollector,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Secured]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{USERS.line}\n{ADMINS.line}\n")
    pair = authority.pair("server")
    words = ["--speculative-tokens", "3", "--json-output", "--otlp-endpoint", collector.endpoint]
    words += ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key)]
    with Server(*words, "--api-key-file", str(keys)) as server:
        yield Secured(server, keys, authority.cert)


def test_grpc_asks_for_a_key(secured: Secured) -> None:
    for key in (None, "wrong"):
        with secured.client(key) as client, pytest.raises(Unauthenticated):
            client.generate(PROMPT, max_new_tokens=4)
        with secured.client(key) as client, pytest.raises(Unauthenticated):
            list(client.generate_stream(PROMPT, max_new_tokens=4))
    with secured.client(USER) as client:
        assert client.generate(PROMPT, max_new_tokens=4).details.generated_tokens == 4
        assert [*client.generate_stream(PROMPT, max_new_tokens=4)][-1].details
        with pytest.raises(PermissionDenied, match="admin"):
            client.load_adapter("demo/pirate")
    with secured.client(ADMIN) as client:
        assert client.load_adapter("demo/pirate").state == "device"
        assert client.generate(PROMPT, "demo/pirate", max_new_tokens=4).generated_text


def test_http_asks_for_a_key(secured: Secured) -> None:
    for path in ("/health", "/ping"):
        assert secured.http(path)[0] == 200
    chat = {"model": "demo/pirate", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4}
    asked: list[tuple[str, Any]] = [
        ("/generate", BODY),
        ("/generate_stream", BODY),
        ("/tokenize", {"inputs": "x"}),
        ("/info", None),
        ("/adapters", None),
        ("/metrics", None),
        ("/v1/models", None),
        ("/v1/chat/completions", chat),
    ]
    for path, body in asked:
        for key in (None, "wrong"):
            status, headers, content = secured.http(path, key, body)
            assert (status, headers["www-authenticate"]) == (401, "Bearer"), path
            error = json.loads(content)
            if path.startswith("/v1/"):
                assert error["error"]["code"] == "invalid_api_key"
            else:
                assert error["error_type"] == "unauthenticated"
        assert secured.http(path, USER, body)[0] == 200, path
    for path, content in (("/generate", b"{no json"), ("/v1/nothing", b""), ("/secrets", None)):
        assert secured.http(path, None, content)[0] == 401, "nothing is read, nothing is told"
    load = {"adapter_id": "demo/pirate"}
    for path, body in (("/adapters", load), ("/adapters/demo/pirate/pin", b"")):
        assert [secured.http(path, key, body)[0] for key in (None, USER, ADMIN)] == [401, 403, 200]
    assert secured.http("/adapters/demo/pirate/unpin", ADMIN, b"")[0] == 200


def test_a_key_is_no_token_for_adapters(secured: Secured) -> None:
    """Nor is a request's own token a key."""
    body = {**BODY, "parameters": {"max_new_tokens": 4, "api_token": USER}}
    assert secured.http("/generate", None, body)[0] == 401
    with secured.client(None) as client, pytest.raises(Unauthenticated):
        client.generate(PROMPT, max_new_tokens=4, api_token=USER)
    with secured.client(USER) as client:
        assert client.generate(PROMPT, max_new_tokens=4, api_token="other").generated_text


def test_plain_text_and_unknown_authorities_are_refused(secured: Secured) -> None:
    with Client(secured.server.grpc, retry=ONCE, timeout=10) as client, pytest.raises(Unavailable):
        client.info()
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        http(f"https://{secured.server.http}/health", ssl.create_default_context())
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(f"http://{secured.server.http}/health", timeout=10)


def test_the_command_line_takes_key_and_authority_from_the_environment(secured: Secured) -> None:
    words = ("generate", PROMPT, "--max-new-tokens", "4", "--target", secured.server.grpc)
    ca: dict[str, Any] = {"LORAX_SPEC_SERVER_CA": str(secured.ca)}
    refused = run(*words, **ca)
    assert refused.returncode == 1 and "API key" in refused.stderr
    assert run(*words, LORAX_SPEC_API_KEY=USER, **ca).returncode == 0
    denied = run("adapters", "pin", "demo/pirate", "--target", secured.server.grpc, **ca)
    assert denied.returncode == 1


def test_the_figures_are_those_of_the_answers(secured: Secured) -> None:
    before = secured.figures()
    answers: list[Response] = []
    with secured.client(USER) as client:
        for adapter, drafts in (
            (None, {}),
            ("demo/pirate", {}),
            ("demo/medusa", {"method": "medusa", "num_tokens": 3}),
            ("demo/pirate-medusa", {}),
        ):
            answer = client.generate(PROMPT * 3, adapter, max_new_tokens=24, speculation=drafts)
            answers.append(answer)
        *_, last = client.generate_stream(
            "x = 1\n" * 20,
            max_new_tokens=24,
            speculation={"method": "prompt_lookup", "num_tokens": 3},
        )
        assert last.details is not None
        answers.append(Response("", last.details))
        answers.append(client.generate("x = 1\n" * 20, max_new_tokens=40, stop=["="]))
    status, _, content = secured.http("/generate", USER, {**BODY, "parameters": {"details": True,
        "max_new_tokens": 12}})  # fmt: skip
    assert status == 200
    after = secured.figures()

    def grew(*sample: str) -> float:
        return after.get(sample, 0.0) - before.get(sample, 0.0)

    def grew_by(name: str) -> float:
        """Over all labels."""
        return sum(grew(*sample) for sample in after if sample[0] == name)

    told = [answer.details for answer in answers]
    over_http = json.loads(content)["details"]
    assert grew("lorax_spec_requests_total", "ok", "grpc") == len(told)
    assert grew("lorax_spec_requests_total", "ok", "http") == 1
    for name in ("prompt_tokens", "generated_tokens", "skipped_tokens"):
        total = sum(getattr(one, name) for one in told) + over_http[name]
        assert grew(f"lorax_spec_{name}_total") == total > 0, name
        if name != "skipped_tokens":
            assert grew_by(f"lorax_spec_adapter_{name}_total") == total, name
    drafters = {name for one in told for name in one.speculation.drafters}
    assert {"medusa", "prompt_lookup"} <= drafters
    for name in ("drafted_tokens", "accepted_tokens"):
        total = sum(getattr(one.speculation, name) for one in told)
        total += over_http["speculation"][name]
        assert grew_by(f"lorax_spec_{name}_total") == total > 0, name
        assert grew_by(f"lorax_spec_adapter_{name}_total") == total, name
    medusa = told[2].speculation.drafters["medusa"]
    sample = "lorax_spec_adapter_drafted_tokens_total"
    assert grew(sample, "demo/medusa", "medusa") == medusa.drafted_tokens > 0
    passes = sum(one.speculation.forward_passes for one in told)
    passes += over_http["speculation"]["forward_passes"]
    assert grew("lorax_spec_forward_passes_total") == passes
    loads = [grew("lorax_spec_adapter_load_seconds_count", one) for one in ("fetch", "read")]
    assert loads[1] >= 2, loads
    assert after["lorax_spec_workers",] == 1


def test_logs_are_json_with_request_ids(secured: Secured) -> None:
    _, headers, _ = secured.http("/generate", USER, BODY, **{"x-request-id": "find-me"})
    assert headers["x-request-id"] == "find-me"

    def told() -> list[dict[str, Any]]:
        ours = [line for line in list(secured.server.stderr) if line.startswith("{")]
        lines = [json.loads(line) for line in ours]  # gRPC's core writes lines of its own
        return [line for line in lines if line.get("request_id") == "find-me"]

    eventually(lambda: bool(told()), 5)
    (line,) = told()
    assert (line["process"], line["outcome"], line["tokens"]) == ("router", "ok", 8)
    assert len(line["trace_id"]) == 32


def test_a_trace_reaches_into_the_worker(secured: Secured, collector: StandInCollector) -> None:
    given = f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"
    assert secured.http("/generate", USER, BODY, traceparent=given)[0] == 200
    _, trace_id, caller, _ = given.split("-")
    spans = collector.wait(
        lambda spans: {"generate", "worker"} <= {one.name for one in spans if one.trace == trace_id}
    )
    ours = {one.name: one for one in spans if one.trace == trace_id}
    assert ours["generate"].parent == caller
    assert ours["worker"].parent == ours["generate"].id
    assert ours["worker"].service == "lorax-spec-worker"
    stages = [one for one in spans if one.parent == ours["worker"].id]
    assert {"prefill", "decode"} <= {one.name for one in stages} <= {
        "adapter_load", "queue", "prefill", "decode",
    }  # fmt: skip
    for stage in stages:
        assert ours["worker"].began - 0.01 <= stage.began <= stage.ended
        assert stage.ended <= ours["worker"].ended + 0.05


def test_sighup_reads_the_keys_again(secured: Secured) -> None:
    fresh, line = new_key(Role.USER, "carol")

    def status(key: str) -> int:
        return secured.http("/tokenize", key, {"inputs": "x"})[0]

    def hang_up() -> None:
        os.kill(secured.server.pid, signal.SIGHUP)

    assert (status(fresh), status(USER)) == (401, 200)
    secured.keys.write_text(f"{ADMINS.line}\n{line.line}\n")
    assert status(fresh) == 401, "not before it is told"
    hang_up()
    eventually(lambda: status(fresh) == 200, 10)
    assert status(USER) == 401
    with secured.client(USER) as client, pytest.raises(Unauthenticated):
        client.info()
    secured.keys.write_text("broken")
    hang_up()
    eventually(lambda: any("old API keys stay" in one for one in list(secured.server.stderr)), 10)
    assert (status(fresh), status(ADMIN)) == (200, 200)
    secured.keys.write_text(f"{USERS.line}\n{ADMINS.line}\n")
    hang_up()
    eventually(lambda: status(USER) == 200, 10)


def test_both_ports_ask_for_certificates_of_the_named_authority(
    authority: StandInAuthority, tmp_path: Path
) -> None:
    server, known = authority.pair("mutual"), authority.pair("caller")
    stranger = StandInAuthority(tmp_path).pair("stranger")
    files = {"tls_cert": server.cert, "tls_key": server.key, "tls_ca": authority.cert}
    with fake_worker() as (_, worker):
        options = {"workers": [worker], "grpc_port": 0, "http_port": 0}
        options |= {name: str(file) for name, file in files.items()}
        with process("-m", "tests.router.run_router", json.dumps(options)) as (_, ready):
            grpc_address, http_address = ready.split()
            check_certificates(grpc_address, http_address, authority, known, stranger)


def check_certificates(
    grpc_address: str,
    http_address: str,
    authority: StandInAuthority,
    known: Pair,
    stranger: Pair,
) -> None:
    for pair, welcome in ((known, True), (stranger, False), (None, False)):
        files: dict[str, Any] = {} if pair is None else {"tls_cert": pair.cert, "tls_key": pair.key}
        client = Client(grpc_address, tls_ca=authority.cert, retry=ONCE, timeout=10, **files)
        context = trust(authority.cert, pair)
        with client:
            if welcome:
                assert client.generate("x", max_new_tokens=4).generated_text
                assert http(f"https://{http_address}/health", context)[0] == 200
                continue
            with pytest.raises(Unavailable):
                client.info()
            with pytest.raises((urllib.error.URLError, ConnectionError)):
                http(f"https://{http_address}/health", context)


def test_a_broken_file_of_keys_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("nonsense")
    words = ("router", "--worker", "127.0.0.1:1", "--port", "0", "--grpc-port", "0")
    for file, named in ((tmp_path / "keys", "keys:1"), (tmp_path / "none", "No such file")):
        done = run(*words, "--api-key-file", str(file))
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert named in done.stderr
