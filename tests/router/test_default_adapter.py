"""The default adapter is there before the router is, or the router says why it is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lorax_spec.router.server import Router, RouterConfig
from lorax_spec.types import BASE_MODEL
from lorax_spec.v1 import lorax_spec_pb2 as pb
from tests.router.house import house
from tests.worker.processes import fake_worker


def test_it_is_loaded_before_the_first_request() -> None:
    async def main() -> None:
        with fake_worker() as (_, address):
            async with house(address, adapter_id="demo/a") as running:
                answer = await running.stub.ListAdapters(pb.ListAdaptersRequest())
                assert [(one.adapter_id, one.tier) for one in answer.adapters] == [
                    ("demo/a", "device")
                ]

    asyncio.run(main())


def test_requests_that_name_none_run_on_it_and_those_for_the_base_model_do_not(
    tmp_path: Path,
) -> None:
    """Told by what a worker holds that was started anew."""
    listen = f"unix:{tmp_path}/worker.sock"

    async def main() -> None:
        with fake_worker(listen) as (first, address):
            async with house(address, adapter_id="demo/a") as running:
                first.kill()
                first.wait()
                with fake_worker(listen):
                    held = []
                    for adapter_id in (BASE_MODEL, None):
                        await running.text("x", 4, adapter_id=adapter_id)
                        answer = await running.stub.ListAdapters(pb.ListAdaptersRequest())
                        held.append([one.adapter_id for one in answer.adapters])
                    assert held == [[], ["demo/a"]]
                    info = await running.stub.Info(pb.InfoRequest())
                    assert info.default_adapter_id == "demo/a"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("adapter_id", "why"), [("nobody", "no adapter 'nobody'"), ("demo/misfit", "hidden size")]
)
def test_the_router_does_not_start_without_it(adapter_id: str, why: str) -> None:
    async def main() -> None:
        with fake_worker() as (_, address):
            router = Router(RouterConfig((address,), 8, grpc_port=0, adapter_id=adapter_id))
            await router.start()
            try:
                with pytest.raises(ValueError, match=f"--adapter-id: .*{why}"):
                    async with asyncio.timeout(30):
                        await router.keep_health(lambda: pytest.fail("announced"))
            finally:
                await router.stop()

    asyncio.run(main())


def test_the_base_model_needs_no_adapter() -> None:
    async def main() -> None:
        with fake_worker() as (_, address):
            async with house(address, adapter_id=BASE_MODEL) as running:
                answer = await running.stub.ListAdapters(pb.ListAdaptersRequest())
                assert not answer.adapters

    asyncio.run(main())
