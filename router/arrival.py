"""What is known of a call before its content is read; logs and traces go by it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

REQUEST_ID = "x-request-id"
TRACEPARENT = "traceparent"

#: What may stand in a log line and a header as it came.
_GOOD_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass(frozen=True)
class Arrival:
    """``protocol`` is grpc or http, empty for a call from within; ``traceparent`` W3C's."""

    protocol: str = ""
    request_id: str = ""
    traceparent: str = ""


#: Of the call that this task serves.
_current: ContextVar[Arrival | None] = ContextVar("arrival", default=None)


def current() -> Arrival:
    return _current.get() or Arrival()


def arrived(protocol: str, request_id: str | None, traceparent: str | None) -> Arrival:
    """With the caller's own id where it is fit to be repeated, else a fresh one."""
    if request_id is None or _GOOD_ID.fullmatch(request_id) is None:
        request_id = uuid.uuid4().hex
    return Arrival(protocol, request_id, traceparent or "")


@contextmanager
def serving(arrival: Arrival) -> Iterator[None]:
    """Within, this task and those it starts serve that call."""
    token = _current.set(arrival)
    try:
        yield
    finally:
        _current.reset(token)


def begin(arrival: Arrival) -> None:
    """As ``serving``, to the end of this task, which serves nothing else."""
    _current.set(arrival)


def log_fields() -> dict[str, str]:
    """What every log line of this task says of its call."""
    request_id = current().request_id
    return {"request_id": request_id} if request_id else {}
