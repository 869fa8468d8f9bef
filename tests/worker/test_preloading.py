"""Adapters that are to be there from the start."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from lorax_spec.config import adapter_ids
from lorax_spec.errors import AdapterMismatch, Unavailable
from lorax_spec.worker.preloading import PreloadError, preload


class Slow:
    """Loads for ever what begins with slow, until it is closed."""

    def __init__(self) -> None:
        self.pinned: list[str] = []
        self.closed = threading.Event()
        self.adapters = SimpleNamespace(pin=self.pin)

    def pin(self, adapter_id: str, pinned: bool, timeout: float | None) -> None:
        assert pinned and timeout is None
        if adapter_id == "misfit":
            raise AdapterMismatch("adapter misfit: hidden size 64, not 256")
        if adapter_id.startswith("slow"):
            assert self.closed.wait(30)
            raise Unavailable("closed")
        self.pinned.append(adapter_id)

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def core() -> Any:
    return Slow()


def test_all_are_pinned_before_it_returns(core: Any) -> None:
    preload(core, [f"a{n}" for n in range(20)])
    assert sorted(core.pinned) == sorted(f"a{n}" for n in range(20))
    assert not core.closed.is_set()


def test_the_first_that_cannot_be_ends_it(core: Any) -> None:
    """Without waiting for those that still load."""
    with pytest.raises(PreloadError, match="adapter misfit: hidden size 64"):
        preload(core, ["a", "misfit", "slow"])
    assert core.closed.is_set()


def test_ids_are_repeated_or_have_commas_between_them() -> None:
    assert adapter_ids(("a,b", " c ,", "a")) == ("a", "b", "c")
    assert adapter_ids(()) == ()
