"""What a pass through the model is computed with: plain torch or kernels, behind one protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from lorax_spec.engine.adapted import Adapted, Holders
from lorax_spec.engine.batch import Batch
from lorax_spec.engine.replay import Program
from lorax_spec.engine.scheduler import Scheduled

#: Keys and values of every layer.
KVCaches = dict[int, tuple[torch.Tensor, torch.Tensor]]

#: Attention of one layer: (layer, query [1, heads, rows, head_dim], key, value, scale, window,
#: softcap, sinks, written), already rotated, to [1, rows, heads, value_dim]; where ``written``,
#: keys and values are in the cache already, and those given mean nothing.
Attend = Callable[
    [
        int,
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
        float,
        int | None,
        float | None,
        torch.Tensor | None,
        bool,
    ],
    torch.Tensor,
]
#: (layer, query [rows, heads, head_dim], key and value [rows, kv_heads, ...], not rotated, cos and
#: sin [rows, head_dim]) to the rotated query; rotated keys and values go into the layer's cache.
WriteRotated = Callable[
    [int, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor
]


class Runner(Protocol):
    """A model as those see it who compute its passes."""

    device: torch.device
    dtype: torch.dtype
    vocabulary: int
    adapters: Holders

    @property
    def shared_heads(self) -> int:
        """Query heads per key head."""

    @property
    def longest(self) -> int:
        """Positions that it knows."""

    @property
    def adapted_paths(self) -> tuple[str, ...]:
        """Of its inner layers that adapters may change."""

    def detached(self) -> AbstractContextManager[None]:
        """Passes in between have no adapters, and a stand-in for attention that has no cache."""

    def run(
        self, ids: torch.Tensor, positions: torch.Tensor, kept: torch.Tensor, attend: Attend
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(hidden, logits) of the kept rows, by the model's own code."""

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: torch.Tensor | None,
        written: bool,
    ) -> torch.Tensor:
        """The current pass's attention."""


class Programs(Protocol):
    """Passes that come again and again, prepared once."""

    @property
    def took_longer(self) -> bool:
        """Whether the last one found was prepared then, so that its time says nothing."""

    def find(self, batch: Batch, adapted: Adapted) -> Program | None:
        """(ids, positions) to (hidden, logits) of all rows of such a batch; None: run the model."""


class StepOps(Protocol):
    """How plans become batches, and what batches are computed with."""

    @property
    def programs(self) -> Programs: ...

    def lay_out(self, plan: Sequence[Scheduled]) -> Batch: ...

    def attention(self, caches: KVCaches, batch: Batch) -> Attend:
        """Over ``caches``, into which it writes the batch's keys and values."""

    def write_rotated(self, caches: KVCaches, batch: Batch) -> WriteRotated | None:
        """Rotation and write in one, for layers that know to ask for it; None: they do it apart."""

    def move(self, caches: KVCaches, source: list[int], target: list[int]) -> None:
        """Copy slots in every layer."""


#: Makes them for a model that is complete but for them.
OpsOf = Callable[[Runner], StepOps]
