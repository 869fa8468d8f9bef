"""Workers come, go and die; requests stay."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import grpc
import pytest

from lorax_spec.errors import AdapterNotFound, Unavailable
from lorax_spec.router.server import Router
from lorax_spec.types import DrafterCounts, GenerateRequest, Parameters, Speculation
from lorax_spec.v1 import lorax_spec_pb2 as pb
from lorax_spec.wire import error_of, request_to_pb, stream_from_pb
from tests.router.house import house
from tests.text.samples import TOKENIZER
from tests.worker.fake_core import DEADLY, script
from tests.worker.processes import fake_worker


def test_requests_outlive_their_worker(tmp_path: Path) -> None:
    """kill -9 in mid-stream; the worker that is started anew continues every text exactly."""
    listen = f"unix:{tmp_path}/worker.sock"

    async def main() -> None:
        with fake_worker(listen, 0.01) as (first, address):
            async with house(address) as running:
                calls = [aiter(running.stream(f"x{n}", 101)) for n in range(8)]
                heard = [[stream_from_pb(await anext(call))] for call in calls]
                first.kill()
                first.wait()
                with fake_worker(listen, 0.001):
                    for n, call in enumerate(calls):
                        async for message in call:
                            heard[n].append(stream_from_pb(message))
                        *tokens, last = heard[n]
                        assert last.details is not None
                        assert [e.token.id for e in tokens if e.token] == script(f"x{n}", 101)
                        assert last.generated_text == TOKENIZER.decode(script(f"x{n}", 101))
                        speculation = last.details.speculation
                        assert speculation.accepted_tokens >= last.details.skipped_tokens > 0
                        assert speculation.forward_passes >= 51

    asyncio.run(main())


def test_the_reference_moves_with_its_request(tmp_path: Path) -> None:
    """And what both workers counted is summed, by drafter and by depth."""
    listen = f"unix:{tmp_path}/worker.sock"
    reference = TOKENIZER.encode("y = 2\n", add_special_tokens=False)

    async def main() -> None:
        with fake_worker(listen, 0.01) as (first, address):
            async with house(address) as running:
                asked = GenerateRequest(
                    "x",
                    parameters=Parameters(max_new_tokens=101),
                    speculation=Speculation(reference="y = 2\n"),
                )
                call = aiter(running.stub.GenerateStream(request_to_pb(asked)))
                await anext(call)
                first.kill()
                first.wait()
                with fake_worker(listen, 0.001):
                    *_, last = [stream_from_pb(message) async for message in call]
                assert last.details is not None
                drafters = last.details.speculation.drafters
                assert drafters["prompt_lookup"] == DrafterCounts(
                    2 * len(reference), 0, (2,) * len(reference)
                )
                passes = last.details.speculation.forward_passes
                assert drafters["medusa"] == DrafterCounts(passes, passes, (passes,), (passes,))

    asyncio.run(main())


def test_requests_move_to_another_worker() -> None:
    async def main() -> None:
        with fake_worker(step_seconds=0.01) as (one, a), fake_worker(step_seconds=0.01) as (_, b):
            async with house(a, b) as running:
                await both(running.router)
                texts = [asyncio.create_task(running.text(f"x{n}", 100)) for n in range(8)]
                await asyncio.sleep(0.2)
                assert all(link.snapshot.requests == 4 for link in running.router.pool.connected)
                one.kill()
                for n, text in enumerate(texts):
                    assert await text == TOKENIZER.decode(script(f"x{n}", 100))

    asyncio.run(main())


async def both(router: Router) -> None:
    while len(router.pool.connected) < 2:
        await asyncio.sleep(0.01)


def test_without_a_worker_a_request_waits_only_so_long() -> None:
    async def main() -> None:
        with fake_worker(step_seconds=0.01) as (worker, address):
            async with house(address, worker_patience=0.3) as running:
                before = asyncio.create_task(running.text("x", 1500))
                await asyncio.sleep(0.1)
                worker.kill()
                began = time.monotonic()
                with pytest.raises(Unavailable):
                    await before
                with pytest.raises(Unavailable):
                    await running.text("x", 4)
                assert 0.5 < time.monotonic() - began < 3
                assert running.router.admission.active == 0

    asyncio.run(main())


def test_a_request_that_kills_every_worker_is_given_up(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/worker.sock"

    async def main() -> None:
        with fake_worker(listen) as (worker, address):
            async with house(address) as running:
                deadly = asyncio.create_task(running.text(DEADLY, 4))
                for _ in range(3):
                    assert await asyncio.to_thread(worker.wait) == 9
                    with fake_worker(listen) as (worker, _):
                        await asyncio.to_thread(worker.wait)
                with pytest.raises(Unavailable, match="lost its worker"):
                    await deadly

    asyncio.run(main())


def test_a_worker_that_shuts_down_gets_no_new_requests() -> None:
    async def main() -> None:
        with fake_worker(step_seconds=0.02) as (one, a), fake_worker(step_seconds=0.02) as (_, b):
            async with house(a, b) as running:
                await both(running.router)
                old = [asyncio.create_task(running.text(f"x{n}", 100)) for n in range(4)]
                await asyncio.sleep(0.2)
                one.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.1)
                new = [asyncio.create_task(running.text(f"y{n}", 10)) for n in range(4)]
                for n in range(4):
                    assert await new[n] == TOKENIZER.decode(script(f"y{n}", 10))
                    assert await old[n] == TOKENIZER.decode(script(f"x{n}", 100))
                assert await asyncio.to_thread(one.wait) == 0

    asyncio.run(main())


def test_adapters_everywhere() -> None:
    async def main() -> None:
        with fake_worker() as (_, a), fake_worker() as (_, b):
            async with house(a, b) as running:
                await both(running.router)
                stub = running.stub
                loaded = await stub.LoadAdapter(pb.LoadAdapterRequest(adapter_id="demo/a"))
                assert loaded.adapter.tier == "device"
                pinned = await stub.PinAdapter(pb.PinAdapterRequest(adapter_id="demo/a"))
                assert pinned.adapter.pinned
                await stub.LoadAdapter(pb.LoadAdapterRequest(adapter_id="demo/b"))
                await stub.UnloadAdapter(pb.UnloadAdapterRequest(adapter_id="demo/b"))
                answer = await stub.ListAdapters(pb.ListAdaptersRequest())
                found = {one.adapter_id: (one.tier, one.pinned) for one in answer.adapters}
                assert found == {"demo/a": ("device", True), "demo/b": ("disk", False)}
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.PinAdapter(pb.PinAdapterRequest(adapter_id="nobody/knows"))
                assert type(error_of(caught.value)) is AdapterNotFound
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.LoadAdapter(pb.LoadAdapterRequest())
                assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(main())
