"""Where the server is, how to reach it, and when to try again: what both clients share."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from lorax_spec import wire
from lorax_spec.client.calls import DEFAULT, Call
from lorax_spec.errors import DeadlineExceeded, LoraxSpecError, Unavailable

#: Answers with details may be long; a lost server should be found again soon after it is back; and
#: trying again is ours to decide, so that it stops at the first token.
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True)
class Retry:
    """Try again ``attempts`` times while the server is unavailable.

    Waits grow from ``first`` to ``longest`` seconds by ``factor``; each is drawn between half and
    the whole of that, lest all clients of a restarted server come back at once.
    """

    attempts: int = 6
    first: float = 0.1
    factor: float = 2.0
    longest: float = 5.0

    def pause(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number ``attempt``, counted from 0."""
        whole = min(self.longest, self.first * self.factor**attempt)
        return whole * random.uniform(0.5, 1.0)


@dataclass(frozen=True)
class Connection:
    """``target`` is ``host:port`` or ``unix:/path``; paths are of PEM files."""

    target: str
    timeout: float | None = 60.0
    retry: Retry = Retry()
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: bool = False
    tls_ca: str | Path | None = None
    tls_cert: str | Path | None = None
    tls_key: str | Path | None = None

    def __post_init__(self) -> None:
        if "://" in self.target:
            raise ValueError(f"a gRPC server is named host:port or unix:/path, not {self.target!r}")

    def credentials(self) -> grpc.ChannelCredentials | None:
        """None for plain text; TLS where asked for or where any of its files is given."""
        if not (self.tls or self.tls_ca or self.tls_cert or self.tls_key):
            return None
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.tls_ca),
            private_key=_read(self.tls_key),
            certificate_chain=_read(self.tls_cert),
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        pairs = [(name.lower(), value) for name, value in self.headers.items()]
        if self.api_key is not None:
            pairs.append(("authorization", f"Bearer {self.api_key}"))
        return tuple(pairs)

    def attempts(self, call: Call[Any]) -> Attempts:
        timeout = self.timeout if call.timeout == DEFAULT else call.timeout
        return Attempts(self.retry, timeout)


class Attempts:
    """The tries of one call, and the time they have together."""

    def __init__(self, retry: Retry, timeout: float | None) -> None:
        self._retry = retry
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._failed = 0

    def time_left(self) -> float | None:
        """Seconds, not negative; None for all the time in the world."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def pause_after(self, failure: grpc.RpcError, *, answered: bool = False) -> float:
        """Seconds to wait before the next try; raises the error where there is to be none.

        ``answered``: part of the answer has reached the caller, who must not get it twice.
        """
        error = wire.error_of(failure)
        if answered or not isinstance(error, Unavailable) or self._failed >= self._retry.attempts:
            raise error from failure
        pause, left = self._retry.pause(self._failed), self.time_left()
        if left is not None and pause >= left:
            raise DeadlineExceeded(f"no time left to try again: {error.message}") from failure
        self._failed += 1
        return pause


def unfinished() -> LoraxSpecError:
    """What to raise where a stream ends well but without its details."""
    return Unavailable("the stream ended before its last event")


def _read(path: str | Path | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
