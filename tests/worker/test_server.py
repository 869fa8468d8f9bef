"""A worker as a real process behind a real socket."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from lorax_spec.engine.request import Emitted, Event, Failed, Finished, TokenRequest
from lorax_spec.errors import (
    AdapterMismatch,
    AdapterNotFound,
    InternalError,
    LoraxSpecError,
    Unavailable,
)
from lorax_spec.types import AdapterMove, AdapterRef, Parameters
from lorax_spec.v1 import lorax_spec_pb2 as pb
from lorax_spec.v1 import worker_pb2 as worker_pb
from lorax_spec.v1 import worker_pb2_grpc
from lorax_spec.wire import error_of, report_from_pb, submit_to_pb
from lorax_spec.worker.server import SERVICE
from tests.text.samples import FOLDER, TOKENIZER
from tests.worker.fake_core import POISON, script
from tests.worker.processes import fake_worker


class Router:
    """What a router does, in blocking calls."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.stub = worker_pb2_grpc.WorkerStub(self.channel)  # type: ignore[no-untyped-call]
        self._sent: Queue[worker_pb.RouterMessage | None] = Queue()
        #: How many messages brought events.
        self.messages = 0
        self._messages = self.stub.Connect(iter(self._sent.get, None), timeout=20)

    def submit(self, request_id: int, text: str, count: int, adapter: str = "") -> None:
        request = TokenRequest(
            request_id,
            tuple(TOKENIZER.encode(text)),
            Parameters(max_new_tokens=count),
            adapter=AdapterRef(adapter) if adapter else None,
        )
        self._sent.put(worker_pb.RouterMessage(submit=submit_to_pb(request)))

    def cancel(self, request_id: int) -> None:
        self._sent.put(worker_pb.RouterMessage(cancel=worker_pb.Cancel(request_id=request_id)))

    def events(self) -> Iterator[Event]:
        for message in self._messages:
            events = report_from_pb(message).events
            self.messages += bool(events)
            yield from events

    def ends(self, count: int) -> dict[int, Finished | Failed]:
        """The last events of so many requests."""
        found: dict[int, Finished | Failed] = {}
        for event in self.events():
            if not isinstance(event, Emitted):
                found[event.request_id] = event
            if len(found) == count:
                break
        return found

    def load(self) -> worker_pb.Load:
        while True:
            message = next(self._messages)
            if message.HasField("load"):
                return message.load

    def moves(self) -> list[AdapterMove]:
        """Of the next message that has any."""
        while not (moves := report_from_pb(next(self._messages)).moves):
            pass
        return list(moves)

    def close(self) -> None:
        self.channel.close()


@pytest.fixture
def worker() -> Iterator[tuple[subprocess.Popen[str], str]]:
    with fake_worker() as running:
        yield running


@pytest.fixture
def router(worker: tuple[subprocess.Popen[str], str]) -> Iterator[Router]:
    router = Router(worker[1])
    yield router
    router.close()


def test_requests_share_a_stream(router: Router) -> None:
    for number in range(10):
        router.submit(number, f"x{number}", 7)
    tokens: dict[int, list[int]] = {number: [] for number in range(10)}
    finished = 0
    for event in router.events():
        if isinstance(event, Emitted):
            tokens[event.request_id] += [token.id for token in event.tokens]
        else:
            finished += 1
            if finished == 10:
                break
    assert tokens == {number: script(f"x{number}", 7) for number in range(10)}


def test_a_step_is_one_message(router: Router) -> None:
    """However many requests it served."""
    for number in range(10):
        router.submit(number, f"x{number}", 200)
    router.ends(10)
    assert router.messages < 2 * 100


def test_what_adapters_did_before_a_router_came_is_told(
    worker: tuple[subprocess.Popen[str], str],
) -> None:
    with grpc.insecure_channel(worker[1]) as channel:
        stub = worker_pb2_grpc.WorkerStub(channel)  # type: ignore[no-untyped-call]
        stub.LoadAdapter(pb.LoadAdapterRequest(adapter_id="demo/early"), timeout=10)
        time.sleep(0.3)  # the engine's thread has looked
    first, second = Router(worker[1]), Router(worker[1])
    try:
        assert first.moves() == [AdapterMove("demo/early", "read")]
        first.stub.LoadAdapter(pb.LoadAdapterRequest(adapter_id="demo/late"), timeout=10)
        assert first.moves() == second.moves() == [AdapterMove("demo/late", "read")]
    finally:
        first.close()
        second.close()


def test_a_request_that_moved_here_goes_on_where_it_was(router: Router) -> None:
    known = script("x", 5)
    request = TokenRequest(
        1,
        tuple(TOKENIZER.encode("x")),
        Parameters(max_new_tokens=9),
        generated=tuple(known),
    )
    router._sent.put(worker_pb.RouterMessage(submit=submit_to_pb(request)))
    rest: list[int] = []
    for event in router.events():
        if isinstance(event, Finished):
            break
        assert isinstance(event, Emitted)
        rest += [token.id for token in event.tokens]
    assert known + rest == script("x", 9)


def test_a_request_it_cannot_run_fails_alone(router: Router) -> None:
    router.submit(1, "x", 6, "demo/misfit")
    router.submit(2, "y", 6, "nobody/knows")
    router.submit(3, "z", 6, "demo/a")
    ends = router.ends(3)
    assert isinstance(ends[1], Failed) and isinstance(ends[1].error, AdapterMismatch)
    assert isinstance(ends[2], Failed) and isinstance(ends[2].error, AdapterNotFound)
    assert isinstance(ends[3], Finished)


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_request_nobody_waits_for_is_dropped(
    worker: tuple[subprocess.Popen[str], str], how: str
) -> None:
    router, watcher = Router(worker[1]), Router(worker[1])
    router.submit(1, "x", 100_000)
    while watcher.load().running != 1:
        pass
    if how == "cancel":
        router.cancel(1)
    else:
        router.close()
    while watcher.load().running != 0:
        pass
    router.close()
    watcher.close()


def test_describes_itself(router: Router) -> None:
    info = router.stub.Describe(pb.InfoRequest(), timeout=5)
    assert (info.model_id, info.model_path) == ("fake", str(FOLDER))


def test_adapters(router: Router) -> None:
    def adapters() -> dict[str, tuple[str, bool]]:
        found = router.stub.ListAdapters(pb.ListAdaptersRequest(), timeout=5).adapters
        return {one.adapter_id: (one.tier, one.pinned) for one in found}

    assert adapters() == {}
    loaded = router.stub.LoadAdapter(pb.LoadAdapterRequest(adapter_id="demo/a"), timeout=5)
    assert loaded.adapter.tier == "device"
    pinned = router.stub.PinAdapter(pb.PinAdapterRequest(adapter_id="demo/a"), timeout=5)
    assert pinned.adapter.pinned
    assert adapters() == {"demo/a": ("device", True)}
    unpin = pb.PinAdapterRequest(adapter_id="demo/a", pinned=False)
    assert not router.stub.PinAdapter(unpin, timeout=5).adapter.pinned
    router.stub.UnloadAdapter(pb.UnloadAdapterRequest(adapter_id="demo/a"), timeout=5)
    assert adapters() == {"demo/a": ("disk", False)}
    request = pb.LoadAdapterRequest(adapter_id="demo/b", wait=False)
    assert router.stub.LoadAdapter(request, timeout=5).adapter.adapter_id == "demo/b"
    while "demo/b" not in adapters():
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("method", "request_", "expected"),
    [
        ("LoadAdapter", pb.LoadAdapterRequest(adapter_id="demo/misfit"), AdapterMismatch),
        ("LoadAdapter", pb.LoadAdapterRequest(adapter_id="x"), AdapterNotFound),
        ("UnloadAdapter", pb.UnloadAdapterRequest(adapter_id="x"), AdapterNotFound),
        ("PinAdapter", pb.PinAdapterRequest(adapter_id="x"), AdapterNotFound),
    ],
)
def test_adapter_errors_keep_their_status(
    router: Router, method: str, request_: Any, expected: type[LoraxSpecError]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(router.stub, method)(request_, timeout=5)
    assert type(error_of(caught.value)) is expected


def test_health_and_reflection(router: Router) -> None:
    health = health_pb2_grpc.HealthStub(router.channel)
    for name in ("", SERVICE):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert SERVICE in ProtoReflectionDescriptorDatabase(router.channel).get_services()


def test_listens_on_a_unix_socket(tmp_path: Path) -> None:
    with fake_worker(f"unix:{tmp_path}/worker.sock") as (_, address):
        assert address == f"unix:{tmp_path}/worker.sock"
        router = Router(address)
        router.submit(1, "x", 4)
        assert isinstance(router.ends(1)[1], Finished)
        router.close()


def test_sigterm_lets_running_requests_finish(
    worker: tuple[subprocess.Popen[str], str], router: Router
) -> None:
    router.submit(1, "x", 100)
    first = next(router.events())
    assert isinstance(first, Emitted)
    worker[0].send_signal(signal.SIGTERM)
    time.sleep(0.1)
    router.submit(2, "y", 4)
    ends = router.ends(2)
    assert isinstance(ends[1], Finished)
    assert isinstance(ends[2], Failed) and isinstance(ends[2].error, Unavailable)
    assert list(router.events()) == []
    assert worker[0].wait(timeout=5) == 0


def test_a_broken_engine_ends_the_process(
    worker: tuple[subprocess.Popen[str], str], router: Router
) -> None:
    router.submit(1, "x", 100_000)
    assert isinstance(next(router.events()), Emitted)
    router.submit(2, POISON, 4)
    ends = router.ends(2)
    assert all(isinstance(end, Failed) for end in ends.values())
    assert all(isinstance(end.error, InternalError) for end in ends.values())  # type: ignore[union-attr]
    assert worker[0].wait(timeout=5) == 1
