"""Who waits to hear how an adapter's folder writes conversations.

Plain state without threads: the manager holds a lock around every call.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from lorax_spec.adapters.lease import Lease
from lorax_spec.errors import LoraxSpecError
from lorax_spec.types import AdapterChat


@dataclass(frozen=True)
class Answer:
    """What somebody waited for, to be told without the lock."""

    future: Future[AdapterChat]
    known: AdapterChat | LoraxSpecError

    def tell(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(self.known, LoraxSpecError):
            self.future.set_exception(self.known)
        else:
            self.future.set_result(self.known)


class Chats:
    """Each of those who wait has a lease of one adapter, which they release once told."""

    def __init__(self) -> None:
        self._waiting: dict[Lease, Future[AdapterChat]] = {}

    def add(self, lease: Lease) -> Future[AdapterChat]:
        return self._waiting.setdefault(lease, Future())

    def drop(self, lease: Lease) -> None:
        self._waiting.pop(lease, None)

    def take_known(self) -> list[Answer]:
        """For those whose adapter was read, be it on the device or not, or never will be."""
        answers = []
        for lease in tuple(self._waiting):
            known = lease.error or next((version.chat for version in lease.versions), None)
            if known is not None:
                answers.append(Answer(self._waiting.pop(lease), known))
        return answers
