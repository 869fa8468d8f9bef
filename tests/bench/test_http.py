"""What the HTTP benchmark measures with: a stub that paces, callers that count, real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lorax_spec.bench.http_callers import WAYS, Ask
from lorax_spec.bench.http_measuring import Callers, Crowd, calling
from lorax_spec.bench.http_servers import stub

pytestmark = pytest.mark.slow

PACE, TOKENS, STREAMS = 0.02, 12, 5


@pytest.fixture(scope="module")
def callers() -> Iterator[Callers]:
    with stub(PACE) as server, calling(server) as callers:
        yield callers


def asked(callers: Callers, name: str, tokens: int = TOKENS) -> Crowd:
    return callers.crowd(name, [Ask(f"x{number}", tokens) for number in range(STREAMS)])


@pytest.mark.parametrize("name", WAYS)
def test_every_way_hears_all_of_it_at_the_stubs_pace(callers: Callers, name: str) -> None:
    crowd = asked(callers, name)
    assert (crowd.tokens, crowd.complete) == (STREAMS * TOKENS, STREAMS)
    for one in crowd.heard:
        assert one.asked < one.first < one.last
        # Its second token comes with the first step, which may be due at once.
        assert (TOKENS - 2) * PACE * 0.95 < one.last - one.first < 5
    assert 0 <= crowd.cpu_seconds < crowd.seconds + 0.1
    assert 2**20 < crowd.idle <= crowd.peak


def test_sides_are_timed_from_first_to_last_token(callers: Callers) -> None:
    run = callers.side("gRPC")([Ask("x", TOKENS)])
    assert run.tokens == TOKENS
    assert (TOKENS - 2) * PACE * 0.95 < run.seconds < 5
    ids = [callers.side(name)([Ask("x", 3)]).outputs for name in ("gRPC", "HTTP")]
    assert [len(one) for (one,) in ids] == [3, 3]


@pytest.mark.parametrize("name", ["HTTP", "completions", "chat"])
def test_an_error_is_no_measurement(callers: Callers, name: str) -> None:
    with pytest.raises(ConnectionError, match="may be at most"):
        asked(callers, name, tokens=10**6)
