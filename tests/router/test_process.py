"""The router as a real process: health, TLS, sockets, drain, and how little it needs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from lorax_spec.router.server import SERVICE, RouterConfig, serve_router
from lorax_spec.v1 import lorax_spec_pb2_grpc
from tests.router.house import request
from tests.text.samples import TOKENIZER
from tests.worker.fake_core import script
from tests.worker.processes import fake_worker, process


@contextmanager
def running_router(*workers: str, **options: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    options = {"workers": workers, "grpc_port": 0, **options}
    with process("-m", "tests.router.run_router", json.dumps(options)) as (child, ready):
        yield child, ready.split()[0]


def stub(channel: grpc.Channel) -> Any:
    return lorax_spec_pb2_grpc.LoraxSpecStub(channel)  # type: ignore[no-untyped-call]


def text(channel: grpc.Channel, prompt: str, count: int) -> str:
    answer: str = stub(channel).Generate(request(prompt, count), timeout=20).generated_text
    return answer


def expected(prompt: str, count: int) -> str:
    return TOKENIZER.decode(script(prompt, count))


def status(channel: grpc.Channel, service: str = "") -> str:
    check = health_pb2.HealthCheckRequest(service=service)
    answer = health_pb2_grpc.HealthStub(channel).Check(check, timeout=5, wait_for_ready=True)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def test_it_needs_no_torch_and_little_memory() -> None:
    with fake_worker() as (_, worker), running_router(worker) as (router, address):
        with grpc.insecure_channel(address) as channel:
            for n in range(20):
                assert text(channel, f"x{n}", 20) == expected(f"x{n}", 20)
        proc = Path(f"/proc/{router.pid}")
        fields = dict(
            line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
        )
        assert int(fields["VmRSS"].split()[0]) < 200 * 1024
        loaded = (proc / "maps").read_text()
        assert "tokenizers" in loaded
        assert "libtorch" not in loaded and "numpy" not in loaded


def test_it_imports_neither_torch_nor_transformers() -> None:
    check = (
        "import sys, lorax_spec.router.server; print({'torch', 'transformers'} & {*sys.modules})"
    )
    with process("-c", check) as (_, line):
        assert line == "set()"


def test_health_follows_the_workers(tmp_path: Path) -> None:
    socket = f"unix:{tmp_path}/worker.sock"
    uds = f"{tmp_path}/router.sock"
    options = json.dumps({"workers": [socket], "grpc_port": 0, "uds": uds})
    router = subprocess.Popen([sys.executable, "-m", "tests.router.run_router", options])
    try:
        with grpc.insecure_channel(f"unix:{uds}") as channel:
            assert status(channel) == status(channel, SERVICE) == "NOT_SERVING"
            assert SERVICE in ProtoReflectionDescriptorDatabase(channel).get_services()
            with fake_worker(socket):
                wait_for(lambda: status(channel) == status(channel, SERVICE) == "SERVING")
                assert text(channel, "x", 9) == expected("x", 9)
            wait_for(lambda: status(channel) == "NOT_SERVING")
            with fake_worker(socket):
                wait_for(lambda: status(channel) == "SERVING")
    finally:
        router.kill()
        router.wait()


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_sigterm_loses_no_request() -> None:
    with (
        fake_worker(step_seconds=0.01) as (_, worker),
        running_router(worker) as (router, address),
        grpc.insecure_channel(address) as channel,
    ):
        texts: dict[int, str] = {}
        threads = [
            threading.Thread(target=lambda n=n: texts.update({n: text(channel, f"x{n}", 100)}))
            for n in range(10)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        router.send_signal(signal.SIGTERM)
        wait_for(lambda: status(channel) == "NOT_SERVING")
        with pytest.raises(grpc.RpcError) as caught:
            text(channel, "late", 4)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        for thread in threads:
            thread.join()
        assert texts == {n: expected(f"x{n}", 100) for n in range(10)}
        assert router.wait(timeout=5) == 0


def test_tls(tmp_path: Path) -> None:
    certificate(tmp_path)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    pair = grpc.ssl_channel_credentials(cert.read_bytes(), key.read_bytes(), cert.read_bytes())
    alone = grpc.ssl_channel_credentials(cert.read_bytes())
    options = {"host": "localhost", "tls_cert": str(cert), "tls_key": str(key)}
    with fake_worker() as (_, worker):
        with running_router(worker, **options) as (_, address):
            with grpc.secure_channel(address, alone) as channel:
                assert text(channel, "x", 9) == expected("x", 9)
            with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
                text(channel, "x", 9)
        with running_router(worker, **options, tls_ca=str(cert)) as (_, address):
            with grpc.secure_channel(address, pair) as channel:
                assert text(channel, "x", 9) == expected("x", 9)
            with grpc.secure_channel(address, alone) as channel, pytest.raises(grpc.RpcError):
                text(channel, "x", 9)


def certificate(folder: Path) -> None:
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)


def announce(grpc_address: str, http_address: str) -> None:
    pytest.fail(f"ready at {grpc_address} {http_address}")


def test_half_a_tls_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="--tls-key"):
        serve_router(RouterConfig((), 100, grpc_port=0, tls_cert=Path("cert.pem")), announce)


def test_a_model_without_a_tokenizer_here_is_an_error(tmp_path: Path) -> None:
    with fake_worker() as (_, worker), pytest.raises(FileNotFoundError):
        config = RouterConfig((worker,), 100, grpc_port=0, tokenizer_path=str(tmp_path))
        serve_router(config, announce)
