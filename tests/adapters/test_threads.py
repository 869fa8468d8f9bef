"""The manager with its own threads."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

from lorax_spec.adapters.local_source import LocalSource
from lorax_spec.adapters.manager import AdapterManager
from lorax_spec.adapters.placing import place_on
from lorax_spec.adapters.room import Budget
from lorax_spec.adapters.source import Location
from lorax_spec.adapters.weights import AdapterWeights
from lorax_spec.errors import AdapterMismatch, LoraxSpecError, Overloaded, Unavailable
from lorax_spec.types import AdapterRef
from tests.adapters.writers import SHAPE, lora_config, lora_tensors, write_lora

IDS = tuple("abcdef")


class SlowSource(LocalSource):
    """A local source of which adapter ``slow`` arrives when the test says so."""

    def __init__(self, root: Path) -> None:
        super().__init__({"": root})
        self.asked, self.arrived = threading.Event(), threading.Event()

    def fetch(self, location: Location, ref: AdapterRef) -> Path:
        if location.adapter_id == "slow":
            self.asked.set()
            self.arrived.wait(30)
        return super().fetch(location, ref)


@pytest.fixture
def source(tmp_path: Path) -> SlowSource:
    for seed, name in enumerate((*IDS, "slow")):
        write_lora(tmp_path / name, lora_config(lora_alpha=seed + 1), lora_tensors(seed=seed))
    write_lora(tmp_path / "bad", lora_config(use_dora=True))
    return SlowSource(tmp_path)


@pytest.fixture
def manager(source: SlowSource) -> Iterator[AdapterManager]:
    manager = AdapterManager(
        source,
        SHAPE,
        dtype=torch.float32,
        device=torch.device("cpu"),
        budget=Budget(2**30, max_active=3, host_bytes=20_000),
    )
    yield manager
    source.arrived.set()
    manager.close()


def scale(weights: AdapterWeights) -> float:
    assert weights.lora is not None
    return next(iter(weights.lora.modules.values())).scale


def test_nobody_waits_for_a_slow_adapter(source: SlowSource, manager: AdapterManager) -> None:
    slow = manager.lease((AdapterRef("slow"),))
    for name in IDS:
        assert manager.load(AdapterRef(name), timeout=5).state in ("device", "host")
    assert not slow.settled
    manager.load(AdapterRef("a"), timeout=5)
    durations = []
    for _ in range(100):
        began = time.perf_counter()
        lease = manager.lease((AdapterRef("a"),))
        durations.append(time.perf_counter() - began)
        assert lease.ready
        lease.release()
    assert sorted(durations)[50] < 0.002
    source.arrived.set()
    manager.load(AdapterRef("slow"), timeout=5)
    assert slow.ready
    slow.release()


def test_an_idle_engine_is_woken(manager: AdapterManager) -> None:
    woken = threading.Event()
    manager.set_wakeup(woken.set)
    lease = manager.lease((AdapterRef("a"), AdapterRef("b")))
    assert woken.wait(5) and lease.ready
    woken.clear()
    failed = manager.lease((AdapterRef("bad"),))
    assert woken.wait(5) and isinstance(failed.error, AdapterMismatch)


def test_close_ends_every_wait(source: SlowSource, manager: AdapterManager) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(manager.load, AdapterRef("slow"))
        assert source.asked.wait(5)
        threading.Timer(0.1, source.arrived.set).start()
        manager.close()
        with pytest.raises(Unavailable):
            waiting.result(5)


def test_a_crowd(manager: AdapterManager, tmp_path: Path) -> None:
    """Threads lease, unload and pin at random: each gets the adapter it asked for, or its error."""
    expected = {name: (seed + 1) / 4 for seed, name in enumerate(IDS)}

    def use(seed: int) -> int:
        chance, used = random.Random(seed), 0
        for _ in range(60):
            names = chance.sample([*IDS, "bad"], k=chance.choice([1, 1, 2]))
            lease = manager.lease(tuple(map(AdapterRef, names)))
            deadline = time.monotonic() + 20
            while not lease.settled:
                assert time.monotonic() < deadline, "stalled"
                time.sleep(0.0005)
            if lease.ready:
                assert list(map(scale, lease.weights)) == [expected[name] for name in names]
                used += 1
            elif "bad" in names:
                assert isinstance(lease.error, AdapterMismatch)
            else:  # beside a pin, or beside one who rewrites the folder again and again
                assert isinstance(lease.error, Overloaded) or "rewritten" in str(lease.error)
            lease.release()
        return used

    def meddle(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            name = chance.choice(IDS)
            calls: list[Callable[[], object]] = [
                partial(manager.unload, name),
                partial(manager.pin, name, timeout=20),
                partial(manager.pin, name, pinned=False),
                partial(manager.load, AdapterRef(name), wait=False),
                (tmp_path / name / "adapter_config.json").touch,
                manager.check_integrity,
                manager.list,
            ]
            with suppress(Overloaded, Unavailable):
                chance.choice(calls)()
            for other in IDS[2:]:
                manager.pin(other, pinned=False)

    with ThreadPoolExecutor(6) as pool:
        users = [pool.submit(use, seed) for seed in range(4)]
        others = [pool.submit(meddle, seed) for seed in range(2)]
        assert sum(user.result() for user in users) > 60
        for other in others:
            other.result()
    for name in IDS:
        manager.unload(name)
    manager.check_integrity()
    assert manager._residency.device.bytes == manager._residency.host.bytes == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda(source: SlowSource) -> None:
    device = torch.device("cuda")
    manager = AdapterManager(
        source,
        SHAPE,
        dtype=torch.bfloat16,
        device=device,
        budget=Budget(2**30, max_active=1, host_bytes=2**20),
    )
    for name in (*IDS, *IDS):
        manager.load(AdapterRef(name), timeout=30)
        lease = manager.lease((AdapterRef(name),))
        (weights,) = lease.weights
        host = lease.versions[0].host
        assert host is not None and host.slab.data.is_pinned()
        assert weights.slab.data.is_cuda
        assert torch.equal(weights.slab.data.cpu(), host.slab.data)
        lease.release()
        manager.check_integrity()
    manager.close()


def test_on_cpu_the_device_shares_the_hosts_memory(manager: AdapterManager) -> None:
    manager.load(AdapterRef("a"), timeout=5)
    lease = manager.lease((AdapterRef("a"),))
    assert place_on(torch.device("cpu"))(lease.weights[0]) is lease.weights[0]
    assert lease.versions[0].host is None
    lease.release()


def test_errors_of_a_load_are_of_one_tree(manager: AdapterManager, tmp_path: Path) -> None:
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    (tmp_path / "a" / "adapter_model.safetensors").mkdir()
    with pytest.raises(
        LoraxSpecError, match=r"adapter a: adapter_model.safetensors is not a regular"
    ):
        manager.load(AdapterRef("a"), timeout=5)
