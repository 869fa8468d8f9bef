"""Through a real router, over real sockets, to real worker processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from lorax_spec.errors import (
    AdapterMismatch,
    AdapterNotFound,
    InternalError,
    InvalidArgument,
    LoraxSpecError,
    Overloaded,
)
from lorax_spec.types import FinishReason
from lorax_spec.v1 import lorax_spec_pb2 as pb
from lorax_spec.wire import details_from_pb, error_of
from tests.router.house import House, events, house, request
from tests.text.samples import TOKENIZER
from tests.worker.fake_core import POISON, script
from tests.worker.processes import fake_worker


@asynccontextmanager
async def one_worker(step_seconds: float = 0.002, **options: Any) -> AsyncIterator[House]:
    with fake_worker(step_seconds=step_seconds) as (_, address):
        async with house(address, **options) as running:
            yield running


def within(test: Callable[[House], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with one_worker(**options) as running:
            await test(running)

    asyncio.run(main())


def expected(text: str, count: int) -> str:
    return TOKENIZER.decode(script(text, count))


def test_texts_of_concurrent_requests() -> None:
    async def test(house: House) -> None:
        texts = await asyncio.gather(*(house.text(f"x{n}", 20) for n in range(30)))
        assert texts == [expected(f"x{n}", 20) for n in range(30)]

    within(test)


def test_a_stream_is_its_answer_in_pieces() -> None:
    async def test(house: House) -> None:
        *tokens, last = await events(house.stream("x", 21, seed=4, temperature=0.5))
        answer = await house.stub.Generate(request("x", 21, seed=4, temperature=0.5))
        details = last.details
        assert details is not None
        assert last.generated_text == answer.generated_text == expected("x", 21)
        assert tuple(event.token for event in tokens) == details.tokens
        other = details_from_pb(answer.details)
        assert details.tokens == other.tokens and details.speculation == other.speculation
        assert [token.id for token in details.tokens] == script("x", 21)
        assert "".join(token.text for token in details.tokens) == last.generated_text
        assert details.finish_reason is FinishReason.LENGTH
        assert (details.generated_tokens, details.skipped_tokens, details.seed) == (21, 10, 4)
        assert details.speculation.forward_passes == 11
        assert details.timings.total >= details.timings.first_token > 0

    within(test)


def test_a_stop_string_cuts_and_frees_the_worker() -> None:
    async def test(house: House) -> None:
        whole = expected("x", 500)
        stop = whole[20:24]
        answer = await house.stub.Generate(request("x", 500, stop=(stop,)))
        assert answer.generated_text == whole[: whole.index(stop)]
        assert answer.details.finish_reason == pb.STOP_SEQUENCE
        await until_idle(house)

    within(test)


async def until_idle(house: House) -> None:
    """The worker itself says that nothing runs or waits there."""
    async with asyncio.timeout(5):
        while any(link.snapshot.requests for link in house.router.pool.connected):
            await asyncio.sleep(0.01)
    assert house.router.admission.active == 0


async def until_running(house: House) -> None:
    async with asyncio.timeout(5):
        while not any(link._load.running for link in house.router.pool.connected):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_that_leaves_frees_the_worker(stream: bool) -> None:
    async def test(house: House) -> None:
        call = house.stream("x", 1500) if stream else house.stub.Generate(request("x", 1500))
        await until_running(house)
        call.cancel()
        await until_idle(house)

    within(test, step_seconds=0.02)


@pytest.mark.parametrize("stream", [True, False])
def test_a_deadline_frees_the_worker(stream: bool) -> None:
    async def test(house: House) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            if stream:
                await events(house.stream("x", 1500, timeout=0.3))
            else:
                await house.stub.Generate(request("x", 1500), timeout=0.3)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await until_idle(house)

    within(test, step_seconds=0.02)


def test_too_many_requests_are_sent_away() -> None:
    async def test(house: House) -> None:
        calls = [house.stream("x", 1500) for _ in range(2)]
        await asyncio.gather(*(call.read() for call in calls))
        with pytest.raises(Overloaded) as caught:
            await house.text("y", 4)
        assert caught.value.retry_after > 0
        calls[0].cancel()
        async with asyncio.timeout(5):
            while house.router.admission.active == 2:
                await asyncio.sleep(0.01)
        assert await house.text("y", 4) == expected("y", 4)

    within(test, step_seconds=0.02, max_concurrent_requests=2)


def test_a_slow_reader_slows_nobody_and_piles_up_only_its_own_answer() -> None:
    async def test(house: House) -> None:
        slow = [aiter(house.stream(f"s{n}", 1900)) for n in range(4)]
        await asyncio.gather(*map(anext, slow))
        for n in range(10):
            assert await house.text(f"x{n}", 20) == expected(f"x{n}", 20)
        for n, call in enumerate(slow):
            assert (await events(call))[-1].generated_text == expected(f"s{n}", 1900)

    within(test, step_seconds=0.0)


@pytest.mark.parametrize(
    ("fields", "error", "field"),
    [
        ({"count": 0}, InvalidArgument, "parameters.max_new_tokens"),
        ({"text": ""}, InvalidArgument, "inputs"),
        ({"text": "x " * 3000}, InvalidArgument, "inputs"),
        ({"top_p": 2.0}, InvalidArgument, "parameters.top_p"),
        ({"best_of": 3}, InvalidArgument, "parameters.best_of"),
        ({"adapter_id": "nobody/knows"}, AdapterNotFound, ""),
        ({"adapter_id": "demo/misfit"}, AdapterMismatch, ""),
    ],
)
def test_errors_have_their_status(
    fields: dict[str, Any], error: type[LoraxSpecError], field: str
) -> None:
    async def test(house: House) -> None:
        with pytest.raises(LoraxSpecError) as caught:
            await house.text(**{"text": "x", "count": 4, **fields})
        assert type(caught.value) is error
        assert getattr(caught.value, "field", "") == field
        with pytest.raises(grpc.aio.AioRpcError) as streamed:
            await events(house.stream(**{"text": "x", "count": 4, **fields}))
        assert type(error_of(streamed.value)) is error
        assert house.router.admission.active == 0

    within(test)


def test_a_broken_engine_fails_its_requests() -> None:
    async def test(house: House) -> None:
        other = asyncio.create_task(house.text("x", 1500))
        await until_running(house)
        with pytest.raises(InternalError):
            await house.text(POISON, 4)
        with pytest.raises(InternalError):
            await other

    within(test, step_seconds=0.02)


def test_info_and_tokenize() -> None:
    async def test(house: House) -> None:
        info = await house.stub.Info(pb.InfoRequest())
        assert (info.model_id, info.workers, info.max_concurrent_requests) == ("fake", 1, 77)
        for text in ("héllo", "x = 1\n" * 2000):
            pieces = (await house.stub.Tokenize(pb.TokenizeRequest(inputs=text))).tokens
            assert [piece.id for piece in pieces] == TOKENIZER.encode(text)
            assert all(text[piece.start : piece.stop] == piece.text for piece in pieces)

    within(test, max_concurrent_requests=77)
