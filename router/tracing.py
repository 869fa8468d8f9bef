"""The router's part of a request's trace."""

from __future__ import annotations

from lorax_spec.router.arrival import Arrival
from lorax_spec.tracing import Span, Tracing


def begin(tracing: Tracing | None, arrival: Arrival) -> Span | None:
    """The span of a request below its caller's; None where nobody traces."""
    if tracing is None:
        return None
    span = tracing.start("generate", arrival.traceparent, server=True)
    span.note({"rpc.system": arrival.protocol, "lorax_spec.request_id": arrival.request_id})
    return span
