"""Spans from the client through the router to the worker, and none where nobody wants them."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from lorax_spec import AdapterNotFound, AsyncClient
from lorax_spec.router.pool import WorkerPool
from tests.router.house import House, house, request
from tests.standins.collector import SeenSpan, StandInCollector
from tests.worker.processes import fake_worker, process

GIVEN = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
UNSAMPLED = GIVEN[:-1] + "0"


@pytest.fixture
def collector() -> Iterator[StandInCollector]:
    with StandInCollector() as collector:
        yield collector


def within(collector: StandInCollector, test: Callable[[House], Awaitable[None]]) -> None:
    """The spans are there when it returns: servers send what is left before they end."""

    async def main() -> None:
        with fake_worker(otlp_endpoint=collector.endpoint) as (worker, address):
            async with house(address, otlp_endpoint=collector.endpoint, http_port=0) as running:
                await test(running)
            worker.terminate()
            worker.wait(10)

    asyncio.run(main())


def named(spans: list[SeenSpan], service: str, name: str) -> list[SeenSpan]:
    return [one for one in spans if (one.service, one.name) == (service, name)]


def test_a_call_is_one_trace(collector: StandInCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = TracerProvider(resource=Resource.create({"service.name": "app"}))
    exporter = OTLPSpanExporter(endpoint=collector.endpoint, insecure=True)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)

    async def test(house: House) -> None:
        address = house.address
        with provider.get_tracer("app").start_as_current_span("work"):
            async with AsyncClient(address) as client:
                answer = await client.generate("x", max_new_tokens=9)
                async for event in client.generate_stream("y", max_new_tokens=500):
                    if event.token is not None:
                        break
                with pytest.raises(AdapterNotFound):
                    await client.generate("z", "nobody/here", max_new_tokens=4)
        assert answer.details.generated_tokens == 9

    within(collector, test)
    provider.shutdown()
    spans = collector.spans
    by_id = {one.id: one for one in spans}
    (work,) = named(spans, "app", "work")
    assert {one.trace for one in spans} == {work.trace}
    whole, left, failed = sorted(named(spans, "lorax-spec-worker", "worker"), key=_began)
    for worker in (whole, left, failed):
        router = by_id[worker.parent]
        client = by_id[router.parent]
        assert (router.service, router.name) == ("lorax-spec-router", "generate")
        assert client.service == "app" and client.parent == work.id
        assert client.began <= router.began <= worker.began < worker.ended
    assert by_id[by_id[whole.parent].parent].name == "lorax_spec.Generate"
    assert whole.attributes["lorax_spec.generated_tokens"] == 9
    assert whole.attributes["lorax_spec.accepted_tokens"] == answer_passes(9)
    assert by_id[whole.parent].attributes["lorax_spec.outcome"] == "ok"
    assert by_id[whole.parent].attributes["rpc.system"] == "grpc"
    assert left.error == "cancelled" and by_id[left.parent].error == "cancelled"
    assert "nobody/here" in failed.error and by_id[failed.parent].error == "adapter_not_found"
    assert by_id[by_id[failed.parent].parent].error


def _began(span: SeenSpan) -> float:
    return span.began


def answer_passes(tokens: int) -> int:
    """The stand-in engine guesses one token a step, and counts it even where there is no room."""
    return (tokens + 1) // 2


def test_http_goes_on_with_the_trace_it_is_given(collector: StandInCollector) -> None:
    async def test(house: House) -> None:
        def post(traceparent: str, stream: bool) -> None:
            body = b'{"inputs": "x", "parameters": {"max_new_tokens": 4}}'
            path = "generate_stream" if stream else "generate"
            headers = {
                "content-type": "application/json",
                "traceparent": traceparent,
                "x-request-id": "mine",
            }
            asked = urllib.request.Request(f"http://{house.router.http}/{path}", body, headers)
            with urllib.request.urlopen(asked, timeout=10) as answer:
                answer.read()

        for stream in (False, True):
            await asyncio.to_thread(post, GIVEN, stream)
            await asyncio.to_thread(post, UNSAMPLED, stream)
        await asyncio.to_thread(post, "nonsense", False)

    within(collector, test)
    routers = named(collector.spans, "lorax-spec-router", "generate")
    workers = named(collector.spans, "lorax-spec-worker", "worker")
    _, given_trace, given_span, _ = GIVEN.split("-")
    assert sorted(one.parent for one in routers) == ["", given_span, given_span]
    assert [one.trace for one in routers if one.parent] == [given_trace] * 2
    assert {one.attributes["lorax_spec.request_id"] for one in routers} == {"mine"}
    assert {one.attributes["rpc.system"] for one in routers} == {"http"}
    assert {one.parent for one in workers} == {one.id for one in routers}


def test_without_an_endpoint_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    check = (
        "import sys, lorax_spec.router.server, lorax_spec.worker.server;"
        "print({'opentelemetry.sdk', 'opentelemetry.exporter'} & {*sys.modules})"
    )
    with process("-c", check) as (_, line):
        assert line == "set()"
    sent: list[Any] = []
    run = WorkerPool.run

    def watched(self: WorkerPool, asked: Any) -> Any:
        sent.append(asked)
        return run(self, asked)

    monkeypatch.setattr(WorkerPool, "run", watched)

    async def main() -> None:
        with fake_worker() as (_, address):
            async with house(address) as running:
                metadata = (("traceparent", GIVEN),)
                await running.stub.Generate(request("x", 4), metadata=metadata)
        assert [one.traceparent for one in sent] == [""]

    asyncio.run(main())


def test_a_client_without_opentelemetry_sends_nothing() -> None:
    check = (
        "import sys; from lorax_spec import Client; from lorax_spec.client.tracing import traced\n"
        "with traced('Generate') as sent: print(sent, 'opentelemetry' in sys.modules)"
    )
    with process("-c", check) as (_, line):
        assert line == "() False"


@pytest.mark.slow
def test_a_collector_that_is_not_there_harms_nobody() -> None:
    async def main() -> None:
        with fake_worker() as (_, address):
            async with house(address, otlp_endpoint="http://127.0.0.1:1") as running:
                async with asyncio.timeout(5):
                    assert await running.text("x", 4)

    asyncio.run(main())
