"""Every request to generate, whatever protocol brought it, counted, traced and logged."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from lorax_spec.engine.request import TokenRequest
from lorax_spec.errors import LoraxSpecError
from lorax_spec.router import metrics as m
from lorax_spec.router.adapter_labels import MERGED
from lorax_spec.router.arrival import current
from lorax_spec.router.figures import SequenceFigures
from lorax_spec.router.tracing import begin
from lorax_spec.text.validate import ValidRequest
from lorax_spec.tracing import Span, Tracing
from lorax_spec.types import MergedRef

logger = logging.getLogger(__name__)

_OK, _CANCELLED, _FAULT = "ok", "cancelled", "internal_error"


class Observation:
    """Where requests are seen; ``tracing`` is None where nobody wants traces."""

    def __init__(
        self,
        metrics: m.Metrics,
        tracing: Tracing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._tracing = tracing
        self._clock = clock

    @contextmanager
    def request(self) -> Iterator[SeenRequest]:
        """One request, from its coming to its end, which is counted by what it raises.

        A caller that leaves, or whose deadline passes, ends it as cancelled.
        """
        seen = SeenRequest(self._metrics, begin(self._tracing, current()), self._clock)
        outcome = _OK
        try:
            yield seen
        except LoraxSpecError as error:
            outcome = _name(error)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            outcome = _OK if seen.answered else _CANCELLED
            raise
        except Exception:
            outcome = _FAULT
            raise
        finally:
            seen.end(outcome)


class SeenRequest:
    """``answered``: nothing of the answer is missing."""

    def __init__(self, metrics: m.Metrics, span: Span | None, clock: Callable[[], float]) -> None:
        self.answered = False
        self._metrics = metrics
        self._span = span
        self._clock = clock
        self._began = clock()
        self._protocol = current().protocol or "none"
        self._adapter: str | None = None  # not known before it is valid
        self._tokens = 0

    def traced(self, request: TokenRequest) -> TokenRequest:
        """With what the worker's spans go by."""
        if self._span is None:
            return request
        return replace(request, traceparent=self._span.traceparent)

    @contextmanager
    def sequence(self, valid: ValidRequest) -> Iterator[SequenceFigures]:
        """One of its answers; several with ``best_of``."""
        merged = isinstance(valid.adapter, MergedRef)
        adapter = valid.adapter.adapter_id if valid.adapter else ""
        figures = SequenceFigures(len(valid.prompt), self._metrics, self._clock)
        self._adapter = MERGED if merged else self._metrics.labels.look(adapter)
        try:
            yield figures
        finally:
            if figures.ran and not merged:
                self._adapter = self._metrics.labels.use(adapter)
            self._tokens += figures.count(self._adapter)

    def end(self, outcome: str) -> None:
        seconds, adapter = self._clock() - self._began, self._adapter
        self._metrics.add(m.REQUESTS, protocol=self._protocol, outcome=outcome)
        if adapter is not None:
            self._metrics.add(m.ADAPTER_REQUESTS, adapter=adapter, outcome=outcome)
        if outcome == _OK:
            self._metrics.observe(m.REQUEST_SECONDS, seconds)
        if self._span is not None:
            self._span.note(
                {
                    "lorax_spec.outcome": outcome,
                    "lorax_spec.adapter": adapter or "",
                    "lorax_spec.generated_tokens": self._tokens,
                }
            )
            self._span.end("" if outcome == _OK else outcome)
        told = {
            "outcome": outcome,
            "adapter": adapter,
            "tokens": self._tokens,
            "seconds": round(seconds, 6),
            "trace_id": self._span.trace_id if self._span else None,
        }
        logger.info(
            "request ended: %s, %d tokens in %.3f s",
            outcome,
            self._tokens,
            seconds,
            extra={"fields": {name: one for name, one in told.items() if one is not None}},
        )


def _name(error: LoraxSpecError) -> str:
    """``AdapterNotFound`` is ``adapter_not_found``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
