"""The driver around the real engine and its loader threads: nobody is left waiting."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lorax_spec import embedded
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import Emitted, Event, Failed, Finished, TokenRequest
from lorax_spec.errors import AdapterMismatch, AdapterNotFound
from lorax_spec.types import AdapterRef, Parameters
from lorax_spec.wire import WorkerLoad
from lorax_spec.worker.driver import Driver

pytestmark = pytest.mark.slow

SOUND = ("pirate", "tests", "medusa", "tests-medusa")
ERRORS = {"x/broken": AdapterMismatch, "nowhere": AdapterNotFound}
WAVES = 50


@pytest.fixture
def core(tmp_path: Path) -> Iterator[EngineCore]:
    """Room for two adapters of four, and for fewer tokens than a wave has."""
    bundle = embedded.path() / "adapters"
    shutil.copytree(bundle / "pirate", tmp_path / "broken")
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"")
    core = EngineCore.load(
        EngineConfig(
            str(embedded.path() / "base"),
            dtype="float32",
            max_total_tokens=64,
            max_batch_total_tokens=96,
            max_batch_prefill_tokens=24,
            max_active_adapters=2,
            adapter_roots={"": bundle, "x": tmp_path},
        )
    )
    yield core
    core.close()


def test_every_request_ends(core: EngineCore) -> None:
    """In waves, large and small, between which the engine sleeps: it wakes for adapters that
    arrive and for those that fail; preempted, cancelled and crowded out requests hold up nobody."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loads: list[WorkerLoad] = []
        exited: asyncio.Future[BaseException | None] = loop.create_future()
        driver = Driver(core, loop, on_load=loads.append, on_exit=exited.set_result)
        driver.start()
        try:
            chance = random.Random(0)
            for _ in range(WAVES):
                await wave(driver, core, chance)
            async with asyncio.timeout(5):
                while loads[-1].running or loads[-1].waiting:
                    await asyncio.sleep(0.01)
        finally:
            driver.stop()
            assert await exited is None

    asyncio.run(main())
    core.check_integrity()


async def wave(driver: Driver, core: EngineCore, chance: random.Random) -> None:
    ends: asyncio.Queue[Finished | Failed] = asyncio.Queue()

    def take(events: Sequence[Event]) -> None:
        for event in events:
            if not isinstance(event, Emitted):
                ends.put_nowait(event)

    choices = [None, *SOUND, *SOUND, *ERRORS]
    adapters = chance.choices(choices, k=chance.choice([1, 1, 2, 6, 9]))
    running = set(range(len(adapters)))
    for number, adapter in enumerate(adapters):
        request = TokenRequest(
            number,
            tuple(chance.randrange(5, 4000) for _ in range(chance.randrange(1, 40))),
            Parameters(max_new_tokens=chance.randrange(1, 12)),
            adapter=AdapterRef(adapter) if adapter else None,
        )
        driver_id = driver.submit(request, take)
        if chance.random() < 0.1:
            await asyncio.sleep(chance.random() * 0.01)
            driver.cancel(driver_id)
            running.discard(number)
        if chance.random() < 0.1:
            await asyncio.to_thread(core.adapters.unload, chance.choice(SOUND))
    async with asyncio.timeout(30):
        while running:
            end = await ends.get()
            running.discard(end.request_id)
            error = end.error if isinstance(end, Failed) else None
            assert type(error) is ERRORS.get(adapters[end.request_id] or "", type(None)), end
