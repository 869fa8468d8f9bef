"""A manager whose adapters come from a hub on the loopback, for tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from lorax_spec.adapters.disk_cache import DiskCache
from lorax_spec.adapters.hub_source import HubSource
from lorax_spec.adapters.known import Known
from lorax_spec.adapters.lease import Lease
from lorax_spec.adapters.local_source import LocalSource
from lorax_spec.adapters.manager import AdapterManager
from lorax_spec.adapters.retry import Retry
from lorax_spec.adapters.room import Budget
from lorax_spec.adapters.sources import Sources
from lorax_spec.types import AdapterInfo, AdapterRef, MergedRef
from tests.adapters.executors import Clock, StepExecutor
from tests.adapters.writers import SHAPE, lora_tensors, write_lora
from tests.standins.hub import StandInHub


def lora_files(folder: Path, seed: int) -> dict[str, bytes]:
    """What a repository with this LoRA holds."""
    write_lora(folder, tensors=lora_tensors(seed=seed))
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@dataclass
class Remote:
    """Without ``threads``, work is done when the test says so.  Local adapters are a and b."""

    root: Path
    hub: StandInHub
    threads: bool = False
    slots: int = 4
    cache_bytes: int = 10**9
    executor: StepExecutor = field(default_factory=StepExecutor)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        for seed, name in enumerate("ab"):
            write_lora(self.root / "local" / name, tensors=lora_tensors(seed=seed))
        cache = DiskCache(self.root / "cache", self.cache_bytes)
        hub = HubSource(
            cache,
            endpoint=self.hub.endpoint,
            retry=Retry(first=0.001, longest=0.01),
            known=Known(clock=self.clock),
        )
        self.source = Sources(LocalSource({"": self.root / "local"}), {"hub": hub}, "hub")
        self.manager = AdapterManager(
            self.source,
            SHAPE,
            dtype=torch.float32,
            device=torch.device("cpu"),
            budget=Budget(2**30, self.slots, 2**30),
            executor=None if self.threads else self.executor,
            clock=self.clock,
        )

    def files(self, seed: int) -> dict[str, bytes]:
        return lora_files(self.root / f"seed-{seed}", seed)

    def ask(self, *refs: AdapterRef | MergedRef | str) -> Lease:
        return self.manager.lease(
            tuple(AdapterRef(ref) if isinstance(ref, str) else ref for ref in refs)
        )

    def take(self, *refs: AdapterRef | MergedRef | str) -> Lease:
        lease = self.ask(*refs)
        self.executor.run_all()
        self.manager.check_integrity()
        return lease

    def info(self, adapter_id: str) -> AdapterInfo:
        (info,) = [info for info in self.manager.list() if info.adapter_id == adapter_id]
        return info


def is_seed(lease: Lease, seed: int, index: int = 0) -> bool:
    """Whether a ready lease holds the LoRA of ``seed``."""
    lora = lease.weights[index].lora
    assert lora is not None
    path = "model.layers.0.self_attn.q_proj"
    expected = lora_tensors(seed=seed)[f"base_model.model.{path}.lora_A.weight"]
    return torch.equal(lora.modules[path].a, expected)
