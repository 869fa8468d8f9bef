"""Sending OpenTelemetry spans, where the ``otel`` extra is there to do it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from lorax_spec import __version__

#: Seconds that what is left may take to be sent in the end.
_FLUSH = 3.0

Attributes = Mapping[str, str | int | float | bool]


class Tracing:
    """Spans to one OTLP collector over gRPC, sent in batches by a thread of its own.

    ``endpoint`` such as ``http://127.0.0.1:4317``; ``service`` is who speaks.  Raises ValueError
    where OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str, service: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation import tracecontext
        except ImportError as error:
            message = f"--otlp-endpoint: needs `pip install lorax-spec[otel]`: {error}"
            raise ValueError(message) from error
        resource = Resource.create({"service.name": service, "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(
            endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=_FLUSH
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("lorax_spec", __version__)
        self._propagator = tracecontext.TraceContextTextMapPropagator()

    def start(
        self, name: str, traceparent: str, began: float | None = None, *, server: bool = False
    ) -> Span:
        """A span below ``traceparent``, or a trace's first where that is none.

        ``began`` is in seconds since 1970; left out: now.  ``server``: it answers another process.
        """
        from opentelemetry.trace import SpanKind

        context = self._propagator.extract({"traceparent": traceparent})
        start = None if began is None else round(began * 1e9)
        kind = SpanKind.SERVER if server else SpanKind.INTERNAL
        return Span(self._tracer.start_span(name, context, kind, start_time=start))

    def close(self) -> None:
        """Send what is left, and stop."""
        self._provider.force_flush(round(_FLUSH * 1000))
        self._provider.shutdown()


class Span:
    """Started; ``end`` it once."""

    def __init__(self, span: Any) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        """What spans below it are started with."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    @property
    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"

    def note(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def end(self, error: str = "", at: float | None = None) -> None:
        """``at`` is in seconds since 1970; left out: now."""
        from opentelemetry.trace import StatusCode

        if error:
            self._span.set_status(StatusCode.ERROR, error)
        self._span.end(round((time.time() if at is None else at) * 1e9))
