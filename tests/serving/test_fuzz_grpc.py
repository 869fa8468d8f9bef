"""Whatever comes in over gRPC gets an answer, and leaves nothing behind."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from lorax_spec import Client
from lorax_spec.v1 import lorax_spec_pb2 as pb
from tests.cli.processes import Server, eventually
from tests.serving.web import ask

pytestmark = pytest.mark.slow

SERVICE = pb.DESCRIPTOR.services_by_name["LoraxSpec"]
METHODS: list[MethodDescriptor] = [*SERVICE.methods]
PROMPT = "import unittest\n\nclass Test"
#: Seconds in which every call has ended; none of them waits for more than a few tokens.
BOUND = 20.0
#: One caller of so many does not wait for the answer, but this many seconds at most.
LEAVING, LINGERING = 4, 0.02

#: What a caller may be told (UNIMPLEMENTED: of a draft model, which this server has not); INTERNAL,
#: UNKNOWN and a passed deadline are our faults.
FAIR = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "FAILED_PRECONDITION",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
    "UNIMPLEMENTED",
}

_STRINGS = [
    "", " ", "\0", "x" * 5000, "\N{SNOWMAN}" * 300, "a\u0301\u202e\ufeff\U0001f469\u200d\U0001f4bb",
    "demo/tests", "demo/tests-medusa", "demo/", "__base_model__", "../../etc/passwd", "/", "%s%n",
    "file:///etc/passwd", "s3://bucket/adapter", "local", "hub", "s3", "main", "linear", "ties",
    "dare_ties", "frequency", "user", "assistant", "system", "<|endoftext|>", "{{ 7 * 7 }}",
    "json_object", "json_schema", "regex", "choice", "(a+)+$", "(?<=x)[", "a{99999999}", "[" * 3000,
    "{}", '{"type": "array", "items": ' * 80 + "{}" + "}" * 80, '["a", "b"]', '{"$ref": "#"}',
]  # fmt: skip
_INTEGERS = [0, 1, 2, 3, 8, 63, 64, 100, 255, 256, 512, 10**6, 2**31 - 1, 2**31, 2**32 - 1]
_LONG = [*_INTEGERS, 2**32, 2**53 + 1, 2**63, 2**64 - 1]
_FLOATS = [0.0, -0.0, 1.0, 0.5, -1.0, 2.0, 1e-45, 3e38, -3e38, *map(float, ("nan", "inf", "-inf"))]

_TYPES = FieldDescriptor
VALUES: dict[int, st.SearchStrategy[Any]] = {
    _TYPES.TYPE_STRING: st.sampled_from(_STRINGS) | st.text(max_size=30),
    _TYPES.TYPE_UINT32: st.sampled_from(_INTEGERS) | st.integers(0, 2**32 - 1),
    _TYPES.TYPE_UINT64: st.sampled_from(_LONG) | st.integers(0, 2**64 - 1),
    _TYPES.TYPE_FLOAT: st.sampled_from(_FLOATS) | st.floats(width=32),
    _TYPES.TYPE_BOOL: st.booleans(),
    _TYPES.TYPE_ENUM: st.integers(0, 6) | st.sampled_from([-1, 99, 2**31 - 1, -(2**31)]),
}


@st.composite
def filled(draw: st.DrawFn, kind: Any, fields: st.SearchStrategy[int]) -> dict[str, Any]:
    """Arguments of a message whose descriptor is ``kind``, as many as ``fields`` says."""
    count = min(draw(fields), len(kind.fields))
    chosen = draw(st.permutations([*kind.fields]))[:count]
    return {field.name: draw(value(field)) for field in chosen}


def value(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    one: st.SearchStrategy[Any]
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        key, item = (VALUES[inner.fields_by_name[name].type] for name in ("key", "value"))
        return st.dictionaries(key, item, max_size=5)
    if inner is not None:
        one = filled(inner, st.integers(0, len(inner.fields)))
    else:
        one = VALUES[field.type]
    if field.is_repeated:
        return st.lists(one, max_size=4) | one.map(lambda item: [item] * 40)
    return one


#: A request that is served, and fields of it that are not as they should be.
GOOD: dict[str, Any] = {"inputs": PROMPT, "parameters": {"max_new_tokens": 3}}


@st.composite
def spoilt(draw: st.DrawFn) -> dict[str, Any]:
    """A good request but for a few fields, so that it comes further than most."""
    request: dict[str, Any] = dict(GOOD)
    for name in ("merged_adapters", "speculation"):
        if draw(st.integers(0, 3)) == 3:
            inner = pb.GenerateRequest.DESCRIPTOR.fields_by_name[name].message_type
            request[name] = draw(filled(inner, st.integers(1, 2)))
    parameters = draw(filled(pb.Parameters.DESCRIPTOR, st.integers(0, 2)))
    request["parameters"] = {"max_new_tokens": 3, **parameters}
    return {**request, **draw(filled(pb.GenerateRequest.DESCRIPTOR, st.integers(0, 1)))}


def messages(method: MethodDescriptor) -> st.SearchStrategy[Message]:
    kind = GetMessageClass(method.input_type)
    wild = filled(method.input_type, st.integers(0, len(method.input_type.fields)))
    arguments = wild if kind is not pb.GenerateRequest else spoilt() | spoilt() | wild
    return arguments.map(lambda given: shortened(kind(**given)))


def shortened(message: Message) -> Message:
    """An answer of 200 tokens shows no more than one of three; absurd lengths stay."""
    if isinstance(message, pb.GenerateRequest) and message.parameters.max_new_tokens < 256:
        message.parameters.max_new_tokens = min(3, message.parameters.max_new_tokens or 3)
    return message


@st.composite
def damaged(draw: st.DrawFn, method: MethodDescriptor) -> bytes:
    """A message with some bytes changed, cut off or added."""
    content = bytearray(draw(messages(method)).SerializeToString()[:2000])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(content)


@pytest.fixture(scope="module")
def target() -> Iterator[Server]:
    """A server of its own: what is loaded, pinned and refused here is nobody else's business."""
    options = ("--speculative-tokens", "3", "--max-total-tokens", "256")
    with Server(*options, "--max-concurrent-requests", "16") as server:
        yield server


@pytest.fixture(scope="module")
def channel(target: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target.grpc) as channel:
        yield channel


def outcome(
    channel: grpc.Channel, method: MethodDescriptor, content: bytes, leave: float | None
) -> str:
    """The status's name.  ``leave``: seconds after which the caller does."""
    path = f"/{SERVICE.full_name}/{method.name}"
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    call: Any = make(path, None, None)
    began = time.monotonic()
    if not method.server_streaming:
        call = call.future(content, timeout=BOUND)
    else:
        call = call(content, timeout=BOUND)
    try:
        if leave is not None:
            time.sleep(leave)
            call.cancel()
        elif method.server_streaming:
            for _ in call:
                pass
    except grpc.RpcError:
        pass
    name: str = call.code().name
    assert time.monotonic() - began < BOUND
    assert name in FAIR or (leave is not None and name == "CANCELLED"), (
        name,
        call.details(),
        content,
    )
    return name


def figure(server: Server, name: str) -> float:
    text = ask(server.http, "/metrics").content.decode()
    families = text_string_to_metric_families(text)
    found = [one.value for family in families for one in family.samples if one.name == name]
    assert found, name
    return sum(found)


def assert_well(server: Server, channel: grpc.Channel) -> None:
    """Nobody is left in the house, which is open."""
    eventually(lambda: figure(server, "lorax_spec_requests_in_progress") == 0, 10)
    eventually(lambda: figure(server, "lorax_spec_worker_running") == 0, 10)
    eventually(lambda: figure(server, "lorax_spec_worker_waiting") == 0, 10)
    check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert check.status == health_pb2.HealthCheckResponse.SERVING
    with Client(server.grpc) as client:
        assert client.generate(PROMPT, max_new_tokens=5).details.generated_tokens == 5
        assert not any(adapter.in_use for adapter in client.list_adapters())
    assert not [line for line in server.stderr if "Traceback" in line or "failed; its" in line]


def fuzz(
    channel: grpc.Channel, method: MethodDescriptor, contents: st.SearchStrategy[bytes], count: int
) -> Counter[str]:
    seen: Counter[str] = Counter()

    @given(content=contents)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def send(content: bytes) -> None:
        number = seen.total()
        leave = None if number % LEAVING else LINGERING * (number % 7) / 6
        seen[outcome(channel, method, content, leave)] += 1

    send()
    return seen


def test_random_bytes(target: Server, channel: grpc.Channel) -> None:
    for method in METHODS:
        seen = fuzz(channel, method, st.binary(max_size=200) | damaged(method), 40)
        assert seen["INVALID_ARGUMENT"], (method.name, seen)
    assert_well(target, channel)


def test_random_messages_of_the_right_type(target: Server, channel: grpc.Channel) -> None:
    for method in METHODS:
        asks = method.input_type is pb.GenerateRequest.DESCRIPTOR
        contents = messages(method).map(lambda message: message.SerializeToString())
        seen = fuzz(channel, method, contents, 150 if asks else 30)
        assert seen["OK"] or not asks, (method.name, seen)
        assert seen["INVALID_ARGUMENT"] or not asks, (method.name, seen)
    assert_well(target, channel)
