"""A worker's part of a request's trace: one span, and below it what its time went on."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lorax_spec.engine.request import Emitted, Event, Failed, Finished, TokenRequest
from lorax_spec.tracing import Span, Tracing
from lorax_spec.types import Timings


@dataclass
class _Running:
    span: Span
    began: float
    tokens: int = 0


class RequestSpans:
    """Of the requests of one router's stream, by the router's ids; those it does not trace are
    passed over."""

    def __init__(self, tracing: Tracing | None) -> None:
        self._tracing = tracing
        self._running: dict[int, _Running] = {}

    def begin(self, request: TokenRequest) -> None:
        if self._tracing is None or not request.traceparent:
            return
        now = time.time()
        span = self._tracing.start("worker", request.traceparent, now, server=True)
        span.note({"lorax_spec.prompt_tokens": len(request.prompt)})
        self._running[request.request_id] = _Running(span, now)

    def note(self, event: Event) -> None:
        if not self._running or event.request_id not in self._running:
            return
        running = self._running[event.request_id]
        match event:
            case Emitted():
                running.tokens += len(event.tokens)
            case Failed():
                del self._running[event.request_id]
                running.span.end(event.error.message)
            case Finished():
                del self._running[event.request_id]
                self._stages(running, event.timings)
                running.span.note(
                    {
                        "lorax_spec.generated_tokens": running.tokens,
                        "lorax_spec.forward_passes": event.speculation.forward_passes,
                        "lorax_spec.drafted_tokens": event.speculation.drafted_tokens,
                        "lorax_spec.accepted_tokens": event.speculation.accepted_tokens,
                    }
                )
                running.span.end()

    def cancel(self, request_id: int) -> None:
        running = self._running.pop(request_id, None)
        if running is not None:
            running.span.note({"lorax_spec.generated_tokens": running.tokens})
            running.span.end("cancelled")

    def end(self) -> None:
        """The stream is over, and with it all its requests."""
        for request_id in list(self._running):
            self.cancel(request_id)

    def _stages(self, running: _Running, timings: Timings) -> None:
        """In the order in which a request goes through them."""
        assert self._tracing is not None
        decode = timings.total - timings.adapter_load - timings.queue - timings.prefill
        stages = {
            "adapter_load": timings.adapter_load,
            "queue": timings.queue,
            "prefill": timings.prefill,
            "decode": max(0.0, decode),
        }
        at = running.began
        for name, seconds in stages.items():
            if seconds > 0:
                self._tracing.start(name, running.span.traceparent, at).end(at=at + seconds)
            at += seconds
