"""Any sequence of calls, with folders that break and heal, on fewer slots than adapters."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lorax_spec.adapters.lease import Lease
from lorax_spec.adapters.local_source import LocalSource
from lorax_spec.adapters.manager import AdapterManager
from lorax_spec.adapters.room import Budget
from lorax_spec.errors import (
    AdapterMismatch,
    AdapterNotFound,
    DeadlineExceeded,
    LoraxSpecError,
    Overloaded,
)
from lorax_spec.types import AdapterRef
from tests.adapters.executors import Clock, StepExecutor
from tests.adapters.writers import (
    SHAPE,
    lora_config,
    lora_tensors,
    write_hydra,
    write_lora,
    write_medusa,
)

IDS = ("r4", "r8", "r16", "other4", "heads", "joint", "hydra", "joint-hydra")
RANKS = {"r4": 4, "r8": 8, "r16": 16, "other4": 4, "joint": 4, "joint-hydra": 4}
KINDS = {
    "heads": "medusa",
    "joint": "lora+medusa",
    "hydra": "hydra",
    "joint-hydra": "lora+hydra",
}
SOME_IDS = st.lists(st.sampled_from([*IDS, "missing"]), min_size=1, max_size=2)


class Lifecycle(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.executor, self.clock = StepExecutor(), Clock()
        self.leases: list[tuple[Lease, tuple[str, ...]]] = []
        self.content = dict.fromkeys(IDS, "good")
        self.seed = 0
        for adapter_id in IDS:
            self.write(adapter_id)

    @initialize(
        slots=st.integers(1, 3),
        device=st.integers(30_000, 200_000),
        host=st.sampled_from([0, 40_000, 10**6]),
        cycle_time=st.sampled_from([0.0, 1.0, 5.0]),
    )
    def begin(self, slots: int, device: int, host: int, cycle_time: float) -> None:
        self.manager = AdapterManager(
            LocalSource({"": self.root}),
            SHAPE,
            dtype=torch.float32,
            device=torch.device("cpu"),
            budget=Budget(device, slots, host),
            executor=self.executor,
            clock=self.clock,
            cycle_time=cycle_time,
        )

    def write(self, adapter_id: str) -> None:
        self.seed += 1
        folder = self.root / adapter_id
        if rank := RANKS.get(adapter_id):
            write_lora(folder, lora_config(r=rank), lora_tensors(rank, self.seed))
        if "medusa" in KINDS.get(adapter_id, "lora"):
            write_medusa(folder)
        if "hydra" in KINDS.get(adapter_id, "lora"):
            write_hydra(folder)

    @rule(ids=SOME_IDS)
    def lease(self, ids: list[str]) -> None:
        lease = self.manager.lease(tuple(map(AdapterRef, ids)))
        self.leases.append((lease, tuple(ids)))
        if "missing" in ids:
            assert isinstance(lease.error, AdapterNotFound)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease, _ = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        lease.release()
        lease.release()

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        lease, _ = data.draw(st.sampled_from(self.leases))
        if lease.ready and not lease.started:
            lease.start()

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        recalled = [one for one, _ in self.leases if one in self.manager.recalled]
        if recalled:
            some = data.draw(st.lists(st.sampled_from(recalled), unique=True))
            self.manager.give_back(some)
            assert not any(lease.ready and not lease.started for lease in some)

    @precondition(lambda self: self.executor.jobs)
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        self.executor.step(data.draw(st.integers(0, len(self.executor.jobs) - 1)))

    @rule(adapter_id=st.sampled_from(IDS))
    def unload(self, adapter_id: str) -> None:
        self.manager.unload(adapter_id)
        (info,) = [info for info in self.manager.list() if info.adapter_id == adapter_id]
        assert info.state in ("absent", "evicting") and not info.pinned

    @rule(adapter_id=st.sampled_from(IDS), pinned=st.booleans())
    def pin(self, adapter_id: str, pinned: bool) -> None:
        try:
            info = self.manager.pin(adapter_id, pinned, timeout=0)
        except (DeadlineExceeded, AdapterMismatch, Overloaded):
            assert pinned
        else:
            assert info.pinned == pinned and (not pinned or info.state == "device")

    @rule(adapter_id=st.sampled_from(IDS), wait=st.booleans())
    def load(self, adapter_id: str, wait: bool) -> None:
        try:
            self.manager.load(AdapterRef(adapter_id), timeout=0, wait=wait)
        except (DeadlineExceeded, AdapterMismatch, Overloaded) as error:
            assert adapter_id in error.message or "adapters of" in error.message

    @rule(adapter_id=st.sampled_from(IDS), how=st.sampled_from(["rewrite", "cut", "misfit"]))
    def change(self, adapter_id: str, how: str) -> None:
        self.write(adapter_id)
        folder = self.root / adapter_id
        for file in folder.glob("*.safetensors" if how == "cut" else "*config.json"):
            if how == "cut":
                file.write_bytes(file.read_bytes()[:-1])
            elif how == "misfit":
                file.write_text('{"peft_type": "IA3", "medusa_num_heads": 9}')
        self.content[adapter_id] = "good" if how == "rewrite" else "bad"

    @rule(seconds=st.sampled_from([0.1, 2.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def books_agree(self) -> None:
        if hasattr(self, "manager"):
            self.manager.check_integrity()

    @invariant()
    def leases_are_all_or_nothing(self) -> None:
        for lease, ids in self.leases:
            assert not (lease.ready and lease.error)
            kinds = [KINDS.get(adapter_id, "lora") for adapter_id in ids]
            assert [weights.kind for weights in lease.weights] == (kinds if lease.ready else [])
            for adapter_id, weights in zip(ids, lease.weights, strict=False):
                lora = weights.lora
                assert (lora.rank if lora else None) == RANKS.get(adapter_id)

    def teardown(self) -> None:
        if hasattr(self, "manager"):
            self.nothing_stalls()
            self.nothing_leaks()
        shutil.rmtree(self.root)

    def nothing_stalls(self) -> None:
        """When requests end one by one, every other one gets its adapters or its error."""
        self.executor.run_all()
        while self.leases:
            settled = [pair for pair in self.leases if pair[0].settled]
            assert settled, "all leases wait for each other"
            for pair in settled[:1]:
                self.right_error(*pair)
                self.leases.remove(pair)
                pair[0].release()
            self.executor.run_all()
            self.manager.check_integrity()

    def right_error(self, lease: Lease, ids: tuple[str, ...]) -> None:
        error: LoraxSpecError | None = lease.error
        if "missing" in ids:
            assert isinstance(error, AdapterNotFound)
        elif error is not None:
            assert isinstance(error, AdapterMismatch | Overloaded)

    def nothing_leaks(self) -> None:
        for adapter_id in IDS:
            self.manager.unload(adapter_id)
        self.clock.now += 2
        self.manager.check_integrity()
        residency = self.manager._residency
        assert (residency.device.bytes, residency.host.bytes) == (0, 0)
        assert not residency.leases and not residency.retired
        for adapter_id in IDS:
            lease = self.manager.lease((AdapterRef(adapter_id),))
            self.executor.run_all()
            fits = isinstance(lease.error, AdapterMismatch) and "bytes" in lease.error.message
            assert lease.ready == (self.content[adapter_id] == "good" and not fits)
            lease.release()
        self.manager.close()


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
