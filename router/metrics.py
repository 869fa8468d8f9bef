"""Every metric of a server, declared once; docs/metrics.md is written from here.

Figures of the whole server count everything.  Those by adapter (``lorax_spec_adapter_...``) are for
the adapters used most of late and ``other``; an adapter that loses its label to another's loses its
figures too, so look at their rates, and at the server's own figures for sums.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    disable_created_metrics,
    generate_latest,
)

from lorax_spec.errors import LoraxSpecError, PermissionDenied
from lorax_spec.router.adapter_labels import AdapterLabels

#: Adapters with figures of their own.
MOST_ADAPTERS = 64

_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip
_TOKEN_SECONDS = (
    0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024, 0.032, 0.05, 0.1, 0.2, 0.5, 1.0,
)  # fmt: skip
_PER_FORWARD = (1.0, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 25.0)
_COUNTS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)

Kind = TypeVar("Kind", Counter, Gauge, Histogram, Summary)


@dataclass(frozen=True, eq=False)
class Declared:
    """``name`` is without the ending of its samples (``_total``, ``_bucket``, ...)."""

    kind: type[Counter | Gauge | Histogram | Summary]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def samples(self) -> tuple[str, ...]:
        """The names that Prometheus knows."""
        endings = {
            Counter: ("_total",),
            Gauge: ("",),
            Histogram: ("_bucket", "_count", "_sum"),
            Summary: ("_count", "_sum"),
        }
        return tuple(self.name + ending for ending in endings[self.kind])


def _counter(name: str, help: str, *labels: str) -> Declared:
    return Declared(Counter, f"lorax_spec_{name}", help, labels)


def _gauge(name: str, help: str, *labels: str) -> Declared:
    return Declared(Gauge, f"lorax_spec_{name}", help, labels)


def _histogram(name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Declared:
    return Declared(Histogram, f"lorax_spec_{name}", help, labels, buckets)


def _mean(name: str, help: str, *labels: str) -> Declared:
    return Declared(Summary, f"lorax_spec_{name}", help, labels)


# Requests.  An outcome is ok or the error's name, such as invalid_argument or overloaded.
REQUESTS = _counter(
    "requests",
    "Requests to generate that have ended, by protocol (grpc, http) and outcome (ok, or the"
    " error's name).",
    "protocol",
    "outcome",
)
REFUSALS = _counter(
    "refused_requests",
    "Calls sent away before they were looked at: unauthenticated, permission_denied,"
    " body_too_large or headers_too_large.",
    "reason",
)
RUNNING = _gauge("requests_in_progress", "Leases out: sequences that run or wait in this server.")
CAPACITY = _gauge(
    "requests_capacity", "Sequences that may run or wait here (--max-concurrent-requests)."
)
REQUEST_SECONDS = _histogram(
    "request_seconds", "From a request's validation to its last token.", _SECONDS
)
QUEUE_SECONDS = _histogram("queue_seconds", "Waiting for room in the batch.", _SECONDS)
ADAPTER_WAIT_SECONDS = _histogram(
    "adapter_wait_seconds", "Waiting for a request's adapter, where it waited.", _SECONDS
)
PREFILL_SECONDS = _histogram("prefill_seconds", "Computing a prompt.", _SECONDS)
FIRST_TOKEN_SECONDS = _histogram(
    "first_token_seconds", "From a request's validation to its first token.", _SECONDS
)
INTER_TOKEN_SECONDS = _histogram(
    "inter_token_seconds",
    "Between two arrivals of a request's tokens; a step may bring several at once.",
    _TOKEN_SECONDS,
)
TOKEN_SECONDS = _histogram(
    "time_per_token_seconds",
    "Mean of a request's time per token after the first.",
    _TOKEN_SECONDS,
)

# Tokens and guesses.
PROMPT_TOKENS = _counter("prompt_tokens", "Prompt tokens of requests that ran.")
GENERATED_TOKENS = _counter("generated_tokens", "Tokens generated.")
SKIPPED_TOKENS = _counter("skipped_tokens", "Generated tokens that came from an accepted guess.")
FORWARD_PASSES = _counter(
    "forward_passes", "Forward passes that gave a request tokens; one counts for each request."
)
DRAFTED_TOKENS = _counter("drafted_tokens", "Tokens guessed, by drafter.", "drafter")
ACCEPTED_TOKENS = _counter("accepted_tokens", "Guesses that were right, by drafter.", "drafter")
PER_FORWARD = _histogram(
    "tokens_per_forward", "A request's tokens for each of its forward passes.", _PER_FORWARD
)
PROMPT_LENGTH = _histogram("prompt_length_tokens", "Length of prompts.", _COUNTS)
ANSWER_LENGTH = _histogram("answer_length_tokens", "Length of answers.", _COUNTS)

# The same by adapter: its id, __base_model__, merged or other.
ADAPTER_REQUESTS = _counter(
    "adapter_requests",
    "Valid requests that have ended, by adapter and outcome.",
    "adapter",
    "outcome",
)
ADAPTER_PROMPT_TOKENS = _counter("adapter_prompt_tokens", "As prompt_tokens.", "adapter")
ADAPTER_GENERATED_TOKENS = _counter("adapter_generated_tokens", "As generated_tokens.", "adapter")
ADAPTER_SKIPPED_TOKENS = _counter("adapter_skipped_tokens", "As skipped_tokens.", "adapter")
ADAPTER_FORWARD_PASSES = _counter("adapter_forward_passes", "As forward_passes.", "adapter")
ADAPTER_DRAFTED_TOKENS = _counter(
    "adapter_drafted_tokens", "As drafted_tokens.", "adapter", "drafter"
)
ADAPTER_ACCEPTED_TOKENS = _counter(
    "adapter_accepted_tokens", "As accepted_tokens.", "adapter", "drafter"
)
ADAPTER_QUEUE_SECONDS = _mean("adapter_queue_seconds", "As queue_seconds.", "adapter")
ADAPTER_FIRST_TOKEN_SECONDS = _mean(
    "adapter_first_token_seconds", "As first_token_seconds.", "adapter"
)
ADAPTER_TOKEN_SECONDS = _mean(
    "adapter_time_per_token_seconds", "As time_per_token_seconds.", "adapter"
)

# What workers say.
LOAD_SECONDS = _histogram(
    "adapter_load_seconds",
    "Loading adapters, by stage: fetch (files brought here), read (into host memory), copy (to the"
    " device).",
    _SECONDS,
    "stage",
)
ADAPTER_LOAD_SECONDS = _mean(
    "adapter_stage_seconds", "As adapter_load_seconds, by adapter.", "adapter", "stage"
)
EVICTIONS = _counter("adapter_evictions", "Adapters that left the device to make room.")
WORKERS = _gauge("workers", "Workers connected.")
WORKERS_EXPECTED = _gauge("workers_expected", "Workers this router was told of.")
WORKER_RUNNING = _gauge("worker_running", "Requests in a worker's batch.", "worker")
WORKER_WAITING = _gauge(
    "worker_waiting", "Requests that wait in a worker, for room or for an adapter.", "worker"
)
WORKER_FREE_TOKENS = _gauge("worker_free_kv_tokens", "Tokens of free KV cache.", "worker")
WORKER_ADAPTERS = _gauge("worker_device_adapters", "Adapters on a worker's device.", "worker")

DECLARED: tuple[Declared, ...] = tuple(
    one for one in list(globals().values()) if isinstance(one, Declared)
)


class Metrics:
    """A registry of its own with all of ``DECLARED``; all methods belong to the event loop.

    ``labels`` says which adapters have figures of their own, ``most_adapters`` at most.
    """

    def __init__(self, most_adapters: int = MOST_ADAPTERS) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # births that nobody asks for
        self._registry = CollectorRegistry()
        self._families = {one: _family(one, self._registry) for one in DECLARED}
        self.labels = AdapterLabels(most_adapters, self._forget)
        self._before: list[Callable[[], None]] = []

    def add(self, metric: Declared, amount: float = 1, **labels: str) -> None:
        """Of a counter."""
        self._child(metric, labels).inc(amount)

    def observe(self, metric: Declared, value: float, **labels: str) -> None:
        """Of a histogram or a mean."""
        self._child(metric, labels).observe(value)

    def set(self, metric: Declared, value: float, **labels: str) -> None:
        """Of a gauge."""
        self._child(metric, labels).set(value)

    def value(self, sample: str, **labels: str) -> float:
        """Of a sample by Prometheus's name, 0 where it was never touched."""
        return self._registry.get_sample_value(sample, labels) or 0.0

    def refused(self, error: LoraxSpecError) -> None:
        """A call without a key that may make it."""
        denied = isinstance(error, PermissionDenied)
        self.add(REFUSALS, reason="permission_denied" if denied else "unauthenticated")

    def refused_http(self, status: HTTPStatus) -> None:
        """A call that was too large."""
        body = status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        self.add(REFUSALS, reason="body_too_large" if body else "headers_too_large")

    def before(self, look: Callable[[], None]) -> None:
        """``look`` is called before each exposition, to set gauges."""
        self._before.append(look)

    async def exposition(self) -> bytes:
        """All of it in Prometheus's text format, written while the event loop goes on."""
        for look in self._before:
            look()
        return await asyncio.to_thread(generate_latest, self._registry)

    def _child(self, metric: Declared, labels: Mapping[str, str]) -> Any:
        family = self._families[metric]
        return family.labels(**labels) if labels else family

    def _forget(self, adapter: str) -> None:
        for metric, family in self._families.items():
            if "adapter" in metric.labels:
                family.remove_by_labels({"adapter": adapter})


def _family(metric: Declared, registry: CollectorRegistry) -> Any:
    options: dict[str, Any] = {"buckets": metric.buckets} if metric.buckets else {}
    return metric.kind(metric.name, metric.help, metric.labels, registry=registry, **options)
