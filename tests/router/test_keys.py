"""Keys in their file, and what a call without the right one gets over gRPC."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from lorax_spec.errors import LoraxSpecError, PermissionDenied, Unauthenticated
from lorax_spec.router.keys import KeyRing, Role, new_key, read_keys
from lorax_spec.v1 import lorax_spec_pb2 as pb
from lorax_spec.wire import error_of
from tests.cli.processes import run
from tests.router.house import House, events, house, request
from tests.worker.processes import fake_worker

USER, USERS = new_key(Role.USER, "bob")
ADMIN, ADMINS = new_key(Role.ADMIN, "alice")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text(f"# who may call\n\n{USERS.line}\n  {ADMINS.line}\n")
    return file


def refusal(ring: KeyRing, header: str | None, role: Role = Role.USER) -> type[LoraxSpecError]:
    with pytest.raises(LoraxSpecError) as caught:
        ring.admit(header, role)
    return type(caught.value)


def test_a_key_is_its_role(file: Path) -> None:
    refused: list[LoraxSpecError] = []
    ring = KeyRing(file, refused.append)
    assert ring.admit(f"Bearer {USER}", Role.USER).name == "bob"
    assert ring.admit(f"bearer  {ADMIN} ", Role.USER).name == "alice"
    assert ring.admit(f"Bearer {ADMIN}", Role.ADMIN).name == "alice"
    assert refused == []
    assert refusal(ring, f"Bearer {USER}", Role.ADMIN) is PermissionDenied
    others = (None, "", "Bearer", "Bearer ", USER, f"Basic {USER}", f"Bearer {USER}x", "Bearer ü")
    for header in (*others, f"Bearer {USER[:-1]}", f"Bearer {USERS.digest}", "Bearer bob"):
        assert refusal(ring, header) is Unauthenticated, header
    assert [type(error) for error in refused] == [PermissionDenied] + [Unauthenticated] * 11


def test_the_file_does_not_hold_the_key(file: Path) -> None:
    assert USER not in file.read_text() and ADMIN not in file.read_text()
    assert USERS.digest not in repr(USERS)
    assert read_keys(file) == (USERS, ADMINS)
    assert len({new_key(Role.USER, "x")[0] for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no key"),
        ("# nothing\n", "no key"),
        ("root:bob:sha256:" + "0" * 64, ":1: not of the form"),
        ("user:bob:" + "0" * 64, ":1: not of the form"),
        ("user:bob:sha256:" + "0" * 63, ":1: not of the form"),
        ("user:b b:sha256:" + "0" * 64, ":1: not of the form"),
        (f"{USERS.line}\n\n{USER}\n", ":3: not of the form"),
        (f"{USERS.line}\n{USERS.line}\n", ":2: a second key of the name bob"),
    ],
)
def test_a_broken_file_says_where(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ValueError, match=problem) as caught:
        read_keys(file)
    assert USER not in str(caught.value), "not even where somebody put the key itself there"


def test_a_broken_file_changes_nothing(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    ring = KeyRing(file)
    file.write_text("nonsense")
    with caplog.at_level(logging.INFO):
        ring.reload()
        file.unlink()
        ring.reload()
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert ring.admit(f"Bearer {USER}", Role.USER).name == "bob"
    file.write_text(ADMINS.line)
    ring.reload()
    assert refusal(ring, f"Bearer {USER}") is Unauthenticated
    assert ring.admit(f"Bearer {ADMIN}", Role.ADMIN).name == "alice"


def test_every_key_is_compared_whole(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the first key fits, or the last, or none, the same is done."""
    compared: list[tuple[str, str]] = []

    def compare(first: str, second: str) -> bool:
        compared.append((first, second))
        return first == second

    ring = KeyRing(file)
    monkeypatch.setattr("lorax_spec.router.keys.hmac.compare_digest", compare)
    for secret in (USER, ADMIN, "neither"):
        compared.clear()
        ring.find(secret)
        assert [first for first, _ in compared] == [USERS.digest, ADMINS.digest]


def test_the_command_makes_keys(tmp_path: Path) -> None:
    shown = run("keys", "new", "--role", "admin", "--name", "carol").stdout
    key, line = (row.split(": ", 1)[1].strip() for row in shown.splitlines())
    file = tmp_path / "keys"
    file.write_text(line + "\n")
    secret = run("keys", "new", "--name", "dan", "--file", str(file)).stdout.strip()
    ring = KeyRing(file)
    assert ring.admit(f"Bearer {key}", Role.ADMIN).name == "carol"
    assert ring.admit(f"Bearer {secret}", Role.USER).role is Role.USER
    for words in (("--name", "dan", "--file", str(file)), ("--name", "a:b")):
        assert run("keys", "new", *words).returncode == 2
    fresh = tmp_path / "fresh"
    assert run("keys", "new", "--name", "eve", "--file", str(fresh)).returncode == 0
    assert fresh.stat().st_mode & 0o077 == 0


def within(file: Path, test: Callable[[House], Awaitable[None]]) -> None:
    async def main() -> None:
        with fake_worker(step_seconds=0.002) as (_, address):
            async with house(address, api_key_file=file) as running:
                await test(running)

    asyncio.run(main())


def test_over_grpc(file: Path) -> None:
    async def test(house: House) -> None:
        def bearer(key: str | None) -> Any:
            return None if key is None else (("authorization", f"Bearer {key}"),)

        async def outcome(method: str, message: Any, key: str | None) -> str:
            try:
                call = getattr(house.stub, method)(message, metadata=bearer(key), timeout=10)
                await (events(call) if method == "GenerateStream" else call)
            except grpc.aio.AioRpcError as error:
                return type(error_of(error)).__name__
            return "ok"

        adapter = "demo/one"
        for_users = {
            "Generate": request("x", 4),
            "GenerateStream": request("x", 4),
            "Tokenize": pb.TokenizeRequest(inputs="x"),
            "Info": pb.InfoRequest(),
            "ListAdapters": pb.ListAdaptersRequest(),
        }
        for_admins = {
            "LoadAdapter": pb.LoadAdapterRequest(adapter_id=adapter),
            "PinAdapter": pb.PinAdapterRequest(adapter_id=adapter),
            "UnloadAdapter": pb.UnloadAdapterRequest(adapter_id=adapter),
        }
        methods = {one.name for one in pb.DESCRIPTOR.services_by_name["LoraxSpec"].methods}
        assert methods == {*for_users, *for_admins}, "each is one or the other"
        for method, message in {**for_users, **for_admins}.items():
            for key in (None, "", "wrong"):
                assert await outcome(method, message, key) == "Unauthenticated", method
            denied = "ok" if method in for_users else "PermissionDenied"
            assert await outcome(method, message, USER) == denied, method
            assert await outcome(method, message, ADMIN) == "ok", method
        check = health_pb2_grpc.HealthStub(house.channel).Check(health_pb2.HealthCheckRequest())
        assert (await check).status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(house.channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [one async for one in stub.ServerReflectionInfo(iter([asked]))]
        assert len(answers[0].list_services_response.service) == 3
        metrics = house.router.metrics
        refused = "lorax_spec_refused_requests_total"
        assert metrics.value(refused, reason="unauthenticated") == 8 * 3
        assert metrics.value(refused, reason="permission_denied") == 3

    within(file, test)


def test_a_request_id_is_kept_or_made(file: Path) -> None:
    async def test(house: House) -> None:
        async def answered(**given: str) -> str:
            metadata = (("authorization", f"Bearer {USER}"), *given.items())
            named = tuple((name.replace("_", "-"), value) for name, value in metadata)
            call = house.stub.Generate(request("x", 4), metadata=named)
            found = dict(await call.initial_metadata())
            await call
            return str(found["x-request-id"])

        assert await answered(x_request_id="mine-1") == "mine-1"
        assert len(await answered()) == 32
        assert len(await answered(x_request_id="has space")) == 32

    within(file, test)
