"""A call's span in the caller's own trace, where the caller makes traces."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

Metadata = tuple[tuple[str, str], ...]


@contextmanager
def traced(method: str) -> Iterator[Metadata]:
    """What to send with the call so that the server's spans are below the caller's.

    Nothing, at no cost, in a program that does not use OpenTelemetry.  The span is not made the
    current one: a stream is read between other things.
    """
    if "opentelemetry.trace" not in sys.modules:
        yield ()
        return
    from opentelemetry import propagate, trace

    tracer = trace.get_tracer("lorax_spec.client")
    span = tracer.start_span(f"lorax_spec.{method}", kind=trace.SpanKind.CLIENT)
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(span))
    try:
        yield tuple(carrier.items())
    except GeneratorExit:
        raise
    except BaseException as error:
        span.set_status(trace.StatusCode.ERROR, str(error))
        raise
    finally:
        span.end()
