"""What a worker needs of an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from lorax_spec.engine.request import Event, TokenRequest
from lorax_spec.types import AdapterChat, AdapterInfo, AdapterMove, AdapterRef, Info


class Adapters(Protocol):
    """The engine's adapters.  Any thread may call; errors are LoraxSpecErrors."""

    def list(self) -> Sequence[AdapterInfo]: ...

    def load(self, ref: AdapterRef, timeout: float | None, wait: bool) -> AdapterInfo:
        """Bring an adapter to the device; returns when it is there, or at once without ``wait``."""
        ...

    def unload(self, adapter_id: str) -> object: ...

    def pin(self, adapter_id: str, pinned: bool, timeout: float | None) -> AdapterInfo: ...

    def chat(self, ref: AdapterRef) -> Future[AdapterChat]:
        """How its folder writes conversations, once it was read; returns at once."""
        ...

    def take_moves(self) -> Sequence[AdapterMove]:
        """Loads and evictions since the last call, oldest first."""
        ...

    def set_wakeup(self, callback: Callable[[], None]) -> None:
        """``callback`` is called, on any thread, whenever a waiting request may go on."""
        ...


class Core(Protocol):
    """An engine.  Only the thread that steps it may call it (its adapters: any thread)."""

    @property
    def info(self) -> Info: ...

    @property
    def adapters(self) -> Adapters: ...

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything now."""
        ...

    def submit(self, request: TokenRequest) -> None:
        """Take a request; what is wrong with it comes back as a Failed event."""
        ...

    def cancel(self, request_id: int) -> None:
        """Forget a request, running or not; unknown ids are nobody's loss."""
        ...

    def step(self) -> Sequence[Event]:
        """One forward pass.  An exception means that the engine is broken."""
        ...

    def load_figures(self) -> tuple[int, int, int, Sequence[str]]:
        """Running and waiting requests, free KV tokens, ids of the adapters on the device."""
        ...

    def close(self) -> None: ...


CoreFactory = Callable[[], Core]
