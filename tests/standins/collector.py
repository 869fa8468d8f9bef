"""Stands in for an OpenTelemetry collector: takes spans by OTLP over gRPC and keeps them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2,
    trace_service_pb2_grpc,
)


@dataclass(frozen=True)
class SeenSpan:
    """Times in seconds since 1970; ids as hex; ``parent`` is empty for a trace's first."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    began: float
    ended: float
    error: str
    attributes: dict[str, Any] = field(default_factory=dict)


class StandInCollector:
    """``endpoint`` is what ``--otlp-endpoint`` wants."""

    def __init__(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(4))
        add = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add(_Service(self), self._server)  # type: ignore[no-untyped-call]
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._lock = threading.Lock()
        self._spans: list[SeenSpan] = []

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop(grace=None).wait()

    @property
    def spans(self) -> list[SeenSpan]:
        with self._lock:
            return list(self._spans)

    def wait(self, enough: Callable[[list[SeenSpan]], bool], seconds: float = 20) -> list[SeenSpan]:
        """What is there once it is enough; senders take up to 5 s."""
        end = time.monotonic() + seconds
        while not enough(self.spans):
            assert time.monotonic() < end, [(one.service, one.name) for one in self.spans]
            time.sleep(0.05)
        return self.spans

    def take(self, request: Any) -> None:
        for resource in request.resource_spans:
            service = _attributes(resource.resource.attributes).get("service.name", "")
            found = [_seen(service, span) for scope in resource.scope_spans for span in scope.spans]
            with self._lock:
                self._spans += found


class _Service(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, collector: StandInCollector) -> None:
        self._collector = collector

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self._collector.take(request)
        return trace_service_pb2.ExportTraceServiceResponse()


def _seen(service: str, span: Any) -> SeenSpan:
    return SeenSpan(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano / 1e9,
        span.end_time_unix_nano / 1e9,
        span.status.message,
        _attributes(span.attributes),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
