"""The real servers as real processes: readiness, memory, signals, lost workers."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from lorax_spec import Client, LoraxSpecError, Response, Unavailable
from lorax_spec.client import Retry
from tests.cli.processes import COMMAND, ENVIRONMENT, Server, eventually, run

pytestmark = pytest.mark.slow

PROMPT = "import unittest\n\nclass Test"
MIB = 2**20


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--speculative-tokens", "3") as running:
        yield running


def test_ready_within_a_minute_and_says_so_once(server: Server) -> None:
    with Client(server.grpc) as client:
        response = client.generate(PROMPT, max_new_tokens=16, ignore_eos_token=True)
        *events, last = client.generate_stream(PROMPT, max_new_tokens=16, ignore_eos_token=True)
    assert response.details.generated_tokens == 16
    assert last.generated_text == response.generated_text
    assert "".join(event.token.text for event in events if event.token) == response.generated_text
    assert server.stdout == [server.ready_line]


def test_http_says_whether_it_is_well_and_what_it_serves(server: Server) -> None:
    with urllib.request.urlopen(f"http://{server.http}/health") as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"http://{server.http}/info") as answer:
        assert json.load(answer)["speculative_tokens"] == 3
    with pytest.raises(urllib.error.HTTPError) as missing:
        urllib.request.urlopen(f"http://{server.http}/secrets")
    assert missing.value.code == 404


def test_idle_memory(server: Server) -> None:
    router = server.child("router").memory_info().rss
    worker = server.child("worker").memory_info().rss
    assert router < 200 * MIB
    assert router + worker < 1536 * MIB


def test_the_router_has_no_torch(server: Server) -> None:
    mapped = {entry.path for entry in server.child("router").memory_maps()}
    assert not [path for path in mapped if "torch" in path]
    assert [path for path in mapped if "tokenizers" in path]


def test_generate_writes_the_answer_to_stdout_and_the_figures_to_stderr(server: Server) -> None:
    words = ["generate", PROMPT, "--target", server.grpc, "--max-new-tokens", "8"]
    done = run(*words, "--show-speculation", "--adapter-id", "demo/medusa", "--num-tokens", "3")
    assert done.returncode == 0, done.stderr
    with Client(server.grpc) as client:
        assert done.stdout == client.generate(PROMPT, max_new_tokens=8).generated_text + "\n"
    assert "forward passes" in done.stderr
    assert "tokens ahead" in done.stderr and "medusa" in done.stderr
    assert run(*words, LORAX_SPEC_TARGET=server.grpc).returncode == 0


def test_generate_with_a_reference_and_the_best_of_several(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "reference.py"
    words = ["generate", PROMPT, "--target", server.grpc, "--max-new-tokens", "24"]
    words += ["--temperature", "0.8", "--seed", "5", "--best-of", "3", "--show-speculation"]
    plain = run(*words, "--method", "none")
    assert plain.returncode == 0, plain.stderr
    assert "tokens ahead" not in plain.stderr
    file.write_text(PROMPT + plain.stdout)
    lookup = ("--method", "prompt_lookup", "--num-tokens", "6", "--reference", str(file))
    helped = run(*words, *lookup)
    assert helped.stdout == plain.stdout

    def passes(stderr: str) -> int:
        found = re.search(r"in (\d+) forward passes", stderr)
        assert found, stderr
        return int(found[1])

    assert passes(helped.stderr) < passes(plain.stderr), "its own answer was the reference"


def test_chat(server: Server) -> None:
    done = run("generate", "--chat", "Write the Python function add.", "--target", server.grpc)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_an_error_is_one_line(server: Server) -> None:
    done = run("generate", "x", "--adapter-id", "demo/nix", "--target", server.grpc)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_adapters(server: Server) -> None:
    def row(*words: str) -> str:
        done = run("adapters", *words, "--target", server.grpc)
        assert done.returncode == 0, done.stderr
        return next(line for line in done.stdout.splitlines() if "demo/pirate " in line)

    assert "absent" in row("list")
    assert "device" in row("load", "demo/pirate")
    assert "yes" in row("pin", "demo/pirate")
    assert "yes" not in row("unpin", "demo/pirate")
    row("unload", "demo/pirate")
    assert "device" not in row("list")


def test_inspect() -> None:
    from lorax_spec import embedded

    folder = embedded.path() / "adapters"
    joint = run("adapters", "inspect", str(folder / "tests-medusa"))
    assert joint.returncode == 0, joint.stderr
    assert "lora+medusa" in joint.stdout and "Medusa" in joint.stdout
    assert run("adapters", "inspect", str(folder)).returncode == 1


def test_doctor() -> None:
    done = run("doctor")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert all(line.startswith(("ok  ", "no  ")) for line in lines)
    assert any(line.startswith("ok  embedded model") for line in lines)


def _long_requests(address: str, count: int) -> list[Response | LoraxSpecError]:
    """As many long answers at once, or the errors they ended with."""

    def one(seed: int) -> Response | LoraxSpecError:
        try:
            with Client(address, retry=Retry(attempts=0)) as client:
                return client.generate(
                    PROMPT, max_new_tokens=250, ignore_eos_token=True, temperature=1.0, seed=seed
                )
        except LoraxSpecError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def _wait_until_busy(server: Server) -> None:
    with Client(server.grpc) as client:
        for _ in client.generate_stream(PROMPT, max_new_tokens=2, ignore_eos_token=True):
            pass
    time.sleep(0.5)


def test_sigterm_under_load_loses_nothing() -> None:
    with Server() as server, ThreadPoolExecutor(1) as pool:
        children = psutil.Process(server.pid).children()
        answers = pool.submit(_long_requests, server.grpc, 6)
        _wait_until_busy(server)
        server.terminate()
        time.sleep(0.1)
        with Client(server.grpc, retry=Retry(attempts=0)) as late, pytest.raises(Unavailable):
            late.generate(PROMPT, max_new_tokens=1)
        assert server.wait() == 0
        for answer in answers.result():
            assert isinstance(answer, Response), answer
            assert answer.details.generated_tokens == 250
    assert not any(child.is_running() for child in children)


def test_a_killed_worker_is_replaced() -> None:
    with Server() as server, ThreadPoolExecutor(1) as pool:
        router = server.child("router").pid
        alone = _long_requests(server.grpc, 2)
        answers = pool.submit(_long_requests, server.grpc, 2)
        _wait_until_busy(server)
        killed = server.child("worker")
        killed.kill()
        for answer, undisturbed in zip(answers.result(), alone, strict=True):
            assert isinstance(undisturbed, Response)
            if isinstance(answer, Response):
                assert answer.generated_text == undisturbed.generated_text
            else:
                assert isinstance(answer, Unavailable)
        with Client(server.grpc) as client:
            response = client.generate(PROMPT, max_new_tokens=4, ignore_eos_token=True)
        assert response.details.generated_tokens == 4
        assert server.child("worker").pid != killed.pid
        assert server.child("router").pid == router
        assert server.stdout == [server.ready_line]


def test_a_killed_router_comes_back_at_its_address() -> None:
    with Server() as server:
        killed = server.child("router")
        killed.kill()
        killed.wait(10)
        with Client(server.grpc, retry=Retry(attempts=30, longest=1.0)) as client:
            assert client.generate(PROMPT, max_new_tokens=4).generated_text
        with urllib.request.urlopen(f"http://{server.http}/health") as answer:
            assert answer.status == 200


def test_children_do_not_outlive_a_killed_serve() -> None:
    server = Server()
    process = psutil.Process(server.pid)
    children = process.children()
    assert len(children) == 2
    process.kill()
    server.wait()
    eventually(lambda: not any(child.is_running() for child in children), 20)


def test_a_second_signal_does_not_wait() -> None:
    with Server() as server, ThreadPoolExecutor(1) as pool:
        answers = pool.submit(_long_requests, server.grpc, 8)
        _wait_until_busy(server)
        started = time.monotonic()
        server.terminate()
        time.sleep(0.2)
        server.terminate()
        server.wait()
        assert time.monotonic() - started < 5
        assert any(isinstance(answer, Unavailable) for answer in answers.result())


def test_a_model_that_is_not_there_ends_serve(tmp_path: Path) -> None:
    started = time.monotonic()
    done = run("serve", "--port", "0", "--grpc-port", "0", "--model-id", str(tmp_path))
    assert done.returncode not in (0, None)
    assert "ready" not in done.stdout
    assert str(tmp_path) in done.stderr
    assert time.monotonic() - started < 45


def test_router_and_worker_apart() -> None:
    words = [[*COMMAND, "worker"], [*COMMAND, "router", "--port", "0", "--grpc-port", "0"]]
    worker = subprocess.Popen(words[0], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert worker.stdout is not None
    address = worker.stdout.readline().removeprefix("ready ").strip()
    router = subprocess.Popen(
        [*words[1], "--worker", address], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert router.stdout is not None
    target = router.stdout.readline().split("grpc=")[1].split()[0]
    with Client(target) as client:
        assert client.generate(PROMPT, max_new_tokens=4).details.generated_tokens > 0
    for process in (router, worker):
        process.terminate()
        assert process.wait(30) == 0


def test_the_demo_ends_well_and_shows_the_table() -> None:
    done = run("demo", timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("tokens per forward", "same text", "speed", "Aye, here be yer code", '{"name": "'):
        assert word in done.stdout
    assert done.stdout.count(" yes ") == 8
