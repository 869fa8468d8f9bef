"""A manager at work, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lorax_spec.adapters.lease import Lease
from lorax_spec.adapters.local_source import LocalSource
from lorax_spec.adapters.manager import AdapterManager
from lorax_spec.adapters.room import Budget
from lorax_spec.types import AdapterInfo, AdapterRef
from tests.adapters.executors import Clock, StepExecutor
from tests.adapters.writers import SHAPE, lora_tensors, medusa_tensors, write_lora

#: Bytes of a slab as write_lora and write_medusa make them, float32.
LORA = 4 * sum(tensor.numel() for tensor in lora_tensors().values())
MEDUSA = 4 * sum(tensor.numel() for tensor in medusa_tensors().values())


@dataclass
class Rig:
    """A manager whose work is done when the test says so."""

    root: Path
    slots: int = 2
    device_bytes: int = 2**30
    host_bytes: int = 2**30
    cycle_time: float = 2.0
    executor: StepExecutor = field(default_factory=StepExecutor)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        for seed, name in enumerate("abcdef"):
            write_lora(self.root / name, tensors=lora_tensors(seed=seed))
        self.manager = AdapterManager(
            LocalSource({"": self.root}),
            SHAPE,
            dtype=torch.float32,
            device=torch.device("cpu"),
            budget=Budget(self.device_bytes, self.slots, self.host_bytes),
            executor=self.executor,
            clock=self.clock,
            cycle_time=self.cycle_time,
        )

    def ask(self, *ids: str) -> Lease:
        return self.manager.lease(tuple(map(AdapterRef, ids)))

    def take(self, *ids: str) -> Lease:
        lease = self.ask(*ids)
        self.executor.run_all()
        self.manager.check_integrity()
        return lease

    def info(self, adapter_id: str) -> AdapterInfo:
        (info,) = [info for info in self.manager.list() if info.adapter_id == adapter_id]
        return info

    def states(self, ids: Iterable[str] = "abc") -> list[str]:
        return [self.info(adapter_id).state for adapter_id in ids]
