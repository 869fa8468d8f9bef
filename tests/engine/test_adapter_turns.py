"""Adapters that take turns on the device of one engine: everybody is served, with the same text."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import Emitted, Failed, Finished
from tests.engine.conftest import NewRequest, load_core

Prompts = dict[str, list[tuple[int, ...]]]
SECONDS = 60.0


@pytest.fixture
def narrow() -> Iterator[EngineCore]:
    """Room for one adapter and one running request; no turn outlasts another's waiting."""
    core = load_core(max_active_adapters=1, max_batch_size=1, adapter_cycle_time_s=0.0)
    yield core
    core.check_integrity()
    core.close()


def wait_for(core: EngineCore, states: dict[str, str]) -> None:
    deadline = time.monotonic() + SECONDS
    while states.items() - {(one.adapter_id, one.state) for one in core.adapters.list()}:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def serve(core: EngineCore, count: int) -> tuple[list[int], dict[int, list[int]]]:
    """Until so many have ended: in which order, and with which tokens."""
    order: list[int] = []
    tokens: dict[int, list[int]] = {}
    deadline = time.monotonic() + SECONDS
    while len(order) < count:
        assert time.monotonic() < deadline, "somebody starves"
        for event in core.step():
            assert not isinstance(event, Failed), event
            if isinstance(event, Emitted):
                tokens.setdefault(event.request_id, []).extend(one.id for one in event.tokens)
            elif isinstance(event, Finished):
                order.append(event.request_id)
    return order, tokens


def test_a_crowd_on_one_adapter_lets_another_in(
    narrow: EngineCore, core: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    crowd = [new_request(prompts["doc"][i], 6, adapter="pirate") for i in range(3)]
    other = new_request(prompts["doc"][0], 6, adapter="tests")
    for request in crowd:
        narrow.submit(request)
    wait_for(narrow, {"pirate": "device"})
    narrow.submit(other)
    wait_for(narrow, {"pirate": "device", "tests": "host"})
    order, tokens = serve(narrow, 4)
    first, *others = (request.request_id for request in crowd)
    assert order == [first, other.request_id, *others]
    for request in (*crowd, other):
        core.submit(request)
        assert serve(core, 1)[1] == {request.request_id: tokens[request.request_id]}


def test_who_is_recalled_may_be_cancelled(
    narrow: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    crowd = [new_request(prompts["doc"][i], 6, adapter="pirate") for i in range(3)]
    other = new_request(prompts["doc"][0], 6, adapter="tests")
    for request in crowd:
        narrow.submit(request)
    wait_for(narrow, {"pirate": "device"})
    narrow.submit(other)
    wait_for(narrow, {"pirate": "device", "tests": "host"})
    serve(narrow, 1)
    assert len(narrow.adapters.recalled) == 2
    narrow.cancel(crowd[1].request_id)
    narrow.step()
    narrow.cancel(crowd[2].request_id)
    narrow.check_integrity()
    assert serve(narrow, 1)[0] == [other.request_id]


def test_a_full_batch_is_shared(
    narrow: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    """By the base model and an adapter, whoever came in greater numbers."""
    plain = [new_request(prompts["doc"][i], 4) for i in range(4)]
    own = new_request(prompts["doc"][0], 4, adapter="pirate")
    narrow.submit(own)
    wait_for(narrow, {"pirate": "device"})
    for request in plain:
        narrow.submit(request)
    late = new_request(prompts["doc"][1], 4, adapter="pirate")
    narrow.submit(late)
    order, _ = serve(narrow, 6)
    ids = [request.request_id for request in (own, plain[0], late, *plain[1:])]
    assert order == ids
