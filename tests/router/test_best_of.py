"""``best_of``: several sequences for one caller, all the way through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest

from lorax_spec.engine.request import Emitted, EmittedToken, Finished, TokenRequest
from lorax_spec.errors import (
    AdapterNotFound,
    InternalError,
    InvalidArgument,
    LoraxSpecError,
    Overloaded,
)
from lorax_spec.router.admission import Admission
from lorax_spec.router.frontend import Frontend
from lorax_spec.router.metrics import Metrics
from lorax_spec.router.observation import Observation
from lorax_spec.text.best_of import SEED_STEP
from lorax_spec.types import (
    FinishReason,
    GenerateRequest,
    Parameters,
    SpeculationDetails,
    Timings,
)
from lorax_spec.wire import error_of, response_from_pb
from tests.router.house import House, events, house, request
from tests.router.test_generation import until_idle, until_running, within
from tests.text.samples import FOLDER
from tests.worker.fake_core import scripted_logprob
from tests.worker.processes import fake_worker

SEED = 9
SAMPLED: dict[str, Any] = {"temperature": 0.8, "seed": SEED}
SEEDS = [(SEED + place * SEED_STEP) % 2**64 for place in range(5)]


def test_the_likeliest_of_five_is_the_answer() -> None:
    likeliest = max(SEEDS, key=scripted_logprob)
    assert likeliest != SEED, "the first would prove nothing"

    async def test(house: House) -> None:
        best = await house.stub.Generate(request("x", 9, best_of=5, **SAMPLED))
        plain = await house.stub.Generate(request("x", 9, temperature=0.8, seed=likeliest))
        ours, theirs = response_from_pb(best), response_from_pb(plain)
        assert ours.generated_text == theirs.generated_text
        assert ours.details.tokens == theirs.details.tokens
        assert ours.details.seed == likeliest
        assert ours.details.speculation == theirs.details.speculation
        short = response_from_pb(
            await house.stub.Generate(request("x", 9, best_of=5, details=False, **SAMPLED))
        )
        assert (short.details.seed, short.details.tokens) == (likeliest, ())
        await until_idle(house)

    within(test)


def test_a_stream_gives_one_sequence() -> None:
    async def test(house: House) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await events(house.stream("x", 4, best_of=2, **SAMPLED))
        error = error_of(caught.value)
        assert isinstance(error, InvalidArgument) and error.field == "parameters.best_of"
        assert (await events(house.stream("x", 4, best_of=1, **SAMPLED)))[-1].details is not None

    within(test)


def test_all_sequences_count_and_leave_together() -> None:
    async def test(house: House) -> None:
        call = house.stub.Generate(request("x", 1500, best_of=3, **SAMPLED))
        await until_running(house)
        assert house.router.admission.active == 3
        with pytest.raises(Overloaded):
            await house.text("y", 4, best_of=2, **SAMPLED)
        assert await house.text("y", 4)
        with pytest.raises(InvalidArgument) as caught:
            await house.text("y", 4, best_of=5, **SAMPLED)
        assert caught.value.field == "parameters.best_of"
        call.cancel()
        await until_idle(house)

    within(test, step_seconds=0.02, max_concurrent_requests=4)


def test_several_failures_are_one_error() -> None:
    async def test(house: House) -> None:
        with pytest.raises(AdapterNotFound, match="nobody/knows"):
            await house.text("x", 4, adapter_id="nobody/knows", best_of=3, **SAMPLED)
        await until_idle(house)

    within(test)


def test_sequences_spread_over_workers() -> None:
    async def main() -> None:
        with fake_worker(step_seconds=0.02) as (_, a), fake_worker(step_seconds=0.02) as (_, b):
            async with house(a, b) as running:
                while len(running.router.pool.connected) < 2:
                    await asyncio.sleep(0.01)
                call = running.stub.Generate(request("x", 300, best_of=4, **SAMPLED))
                await until_running(running)
                requests = [link.snapshot.requests for link in running.router.pool.connected]
                assert requests == [2, 2]
                call.cancel()
                await until_idle(running)

    asyncio.run(main())


class FailingPool:
    """Generates without end, but fails the sequence of one seed after a moment."""

    def __init__(self, failing: int) -> None:
        self.failing = failing
        self.running = 0
        self.most = 0

    async def run(self, request: TokenRequest) -> AsyncGenerator[list[Emitted | Finished]]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for step in range(10**6):
                yield [Emitted(0, (EmittedToken(65, -1.0),), SpeculationDetails())]
                await asyncio.sleep(0.001)
                if step == 5 and request.parameters.seed == self.failing:
                    raise InternalError("this one fails")
            yield [Finished(0, FinishReason.LENGTH, SpeculationDetails(), Timings())]
        finally:
            self.running -= 1


@pytest.mark.parametrize("failing", SEEDS[:3])
def test_one_failure_ends_all(failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        pool: Any = FailingPool(failing)
        admission = Admission(10)
        frontend = Frontend(pool, admission, None, Observation(Metrics()))
        await frontend.load_text(FOLDER)
        monkeypatch.setattr(frontend, "info", lambda: Sizes)
        asked = GenerateRequest("x", parameters=Parameters(100, 0.8, seed=SEED, best_of=3))
        async with asyncio.timeout(5):
            with pytest.raises(LoraxSpecError, match="this one fails") as caught:
                await frontend.complete(asked)
        assert type(caught.value) is InternalError
        assert (pool.most, pool.running, admission.active) == (3, 0, 0)

    asyncio.run(main())


class Sizes:
    max_input_length = 100
    max_total_tokens = 2**20
