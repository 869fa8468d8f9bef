"""The entry point, the health check and the lists of packages, run as the images run them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from lorax_spec.cli.app import _COMMANDS

ROOT = Path(__file__).parents[2]
ENTRYPOINT = ROOT / "docker" / "entrypoint.sh"
CACHES = ("HF_HUB_CACHE", "LORAX_SPEC_ADAPTER_CACHE_DIR", "TRITON_CACHE_DIR")

#: Tells how it was called, then waits where it is told to.
FAKE = """#!/bin/sh
trap 'echo terminated; exit 7' TERM
echo "pid $$"
for word; do echo "word $word"; done
env | grep -E '^(LORAX_SPEC_UDS|HF_HUB_CACHE|LORAX_SPEC_ADAPTER_CACHE_DIR|TRITON_CACHE_DIR)='
for _ in ${WAIT-}; do sleep 0.05; done
exit 3
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a ``lorax-spec`` on the PATH that only tells how it was called."""
    fake = tmp_path / "bin" / "lorax-spec"
    fake.parent.mkdir()
    fake.write_text(FAKE)
    fake.chmod(0o755)
    return {"PATH": f"{fake.parent}:/usr/bin:/bin", "TMPDIR": str(tmp_path / "tmp")}


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [ENTRYPOINT, *words], env=environment, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 3  # the command's own
    return done


def words_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r"^word (.*)$", done.stdout, re.MULTILINE)


def test_words_are_for_serve(environment: dict[str, str]) -> None:
    done = run(environment, "--model-id", "a b", "--speculative-tokens", "3")
    assert words_of(done) == ["serve", "--model-id", "a b", "--speculative-tokens", "3"]
    assert words_of(run(environment)) == ["serve"]
    assert words_of(run(environment, "--help")) == ["serve", "--help"]
    assert done.stderr == ""


def test_of_the_router_image_they_are_for_router(environment: dict[str, str]) -> None:
    environment["LORAX_SPEC_COMMAND"] = "router"
    assert words_of(run(environment, "--worker", "w:6000")) == ["router", "--worker", "w:6000"]


@pytest.mark.parametrize("command", _COMMANDS)
def test_a_command_of_ours_is_taken_for_one(environment: dict[str, str], command: str) -> None:
    assert words_of(run(environment, command, "--help")) == [command, "--help"]


def test_only_commands_of_ours_are(environment: dict[str, str]) -> None:
    (line,) = re.findall(r"^    (.*)\) ;;$", ENTRYPOINT.read_text(), re.MULTILINE)
    assert set(line.split(" | ")) == set(_COMMANDS)
    assert words_of(run(environment, "bash")) == ["serve", "bash"]


@pytest.mark.parametrize(
    ("command", "socket"),
    [
        ("serve", "/tmp/lorax-spec.sock"),
        ("router", "/tmp/lorax-spec.sock"),
        ("worker", None),
        ("demo", None),
    ],
)
def test_servers_listen_where_the_health_check_asks(
    environment: dict[str, str], command: str, socket: str | None
) -> None:
    told = re.findall(r"^LORAX_SPEC_UDS=(.*)$", run(environment, command).stdout, re.MULTILINE)
    assert told == ([socket] if socket else [])
    assert not socket or socket in (ROOT / "docker" / "healthcheck.py").read_text()


def test_it_becomes_the_command_and_terminates_with_it(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [ENTRYPOINT], env={**environment, "WAIT": ". " * 200}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"pid {process.pid}\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read().endswith("terminated\n")
    assert process.returncode == 7


def test_caches_stay_where_they_can_be_written(environment: dict[str, str], tmp_path: Path) -> None:
    folders = {name: f"{tmp_path}/data/{name}/not-yet" for name in CACHES}
    done = run({**environment, **folders})
    assert done.stderr == ""
    assert all(f"{name}={folder}\n" in done.stdout for name, folder in folders.items())
    assert not (tmp_path / "data").exists()  # whoever fills it makes it


@pytest.fixture
def nobody() -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder that may be read and not written, by whom ``subprocess`` is told to be: to root
    every folder looks writable."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(ENTRYPOINT, folder / "entrypoint.sh")
        (folder / "lorax-spec").write_text(FAKE)
        (folder / "lorax-spec").chmod(0o755)
        folder.chmod(0o555)
        yield folder, {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}
        folder.chmod(0o755)


def run_as_nobody(
    nobody: tuple[Path, dict[str, Any]], **variables: str
) -> subprocess.CompletedProcess[str]:
    folder, who = nobody
    return subprocess.run(
        [folder / "entrypoint.sh"],
        env={"PATH": f"{folder}:/usr/bin:/bin", "TMPDIR": "/tmp/elsewhere", **variables},
        capture_output=True,
        text=True,
        timeout=20,
        **who,
    )


def test_caches_that_cannot_be_written_move_and_it_says_so(
    nobody: tuple[Path, dict[str, Any]],
) -> None:
    done = run_as_nobody(nobody, **{name: f"{nobody[0]}/{name}" for name in CACHES})
    for name in CACHES:
        assert f"{name}=/tmp/elsewhere/lorax-spec/{name}\n" in done.stdout
        assert f" {name}={nobody[0]}/{name}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert words_of(done) == ["serve"]


def test_offline_a_read_only_cache_of_models_stays(nobody: tuple[Path, dict[str, Any]]) -> None:
    done = run_as_nobody(nobody, HF_HUB_CACHE=str(nobody[0]), HF_HUB_OFFLINE="1")
    assert f"HF_HUB_CACHE={nobody[0]}\n" in done.stdout
    assert done.stderr == ""


@contextmanager
def health_server(address: str, status: int) -> Iterator[None]:
    servicer = health.HealthServicer()
    servicer.set("", status)
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


def check(socket: Path, worker: str = "127.0.0.1:1") -> tuple[int, str]:
    environment = {**os.environ, "LORAX_SPEC_UDS": str(socket), "LORAX_SPEC_LISTEN": worker}
    done = subprocess.run(
        [sys.executable, ROOT / "docker" / "healthcheck.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
    )
    return done.returncode, done.stdout


def test_health_of_a_server(tmp_path: Path) -> None:
    status = health_pb2.HealthCheckResponse
    socket = tmp_path / "s"
    with health_server(f"unix:{socket}", status.SERVING):
        assert check(socket) == (0, f"unix:{socket}: SERVING\n")
    with health_server(f"unix:{socket}", status.NOT_SERVING):
        assert check(socket) == (1, f"unix:{socket}: NOT_SERVING\n")


def test_health_of_a_worker_and_of_nobody(tmp_path: Path) -> None:
    worker = f"unix:{tmp_path / 'worker'}"
    with health_server(worker, health_pb2.HealthCheckResponse.SERVING):
        assert check(tmp_path / "none", worker) == (0, f"{worker}: SERVING\n")
    assert check(tmp_path / "none") == (1, "127.0.0.1:1: UNAVAILABLE\n")


def requirements(*extras: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, ROOT / "docker" / "requirements.py", *extras],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {re.split(r"[<>=;\[ ]", line)[0].lower() for line in done.stdout.splitlines()}


def of_the_image(name: str) -> set[str]:
    text = (ROOT / "docker" / "Dockerfile").read_text()
    (words,) = re.findall(rf"requirements\.py (.*) > {name}\.txt", text)
    return requirements(*words.split())


def test_packages_of_the_images() -> None:
    router, full = of_the_image("router"), of_the_image("full")
    assert {"grpcio", "fastapi", "tokenizers", "opentelemetry-sdk"} <= router <= full
    assert not {"torch", "transformers", "numpy", "lorax-spec"} & router
    assert {"torch", "transformers", "s3fs"} <= full
    assert "lorax-spec" not in full  # an extra that names another one


def test_an_extra_that_there_is_not_ends_the_build() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        requirements("no-such-extra")


def test_packages_of_the_images_are_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert of_the_image("full") <= pinned
