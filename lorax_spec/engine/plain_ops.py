"""Passes in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorax_spec.engine.batch import Batch, TileLayout
from lorax_spec.engine.recorded import RecordedPrograms
from lorax_spec.engine.scheduler import Scheduled
from lorax_spec.engine.step_ops import Attend, KVCaches, OpsOf, Runner, WriteRotated
from lorax_spec.kernels import kv_cache
from lorax_spec.kernels.attention import paged_attention


def plain_ops(*, exact: bool, row_floor: int = 1) -> OpsOf:
    """Plain torch.  ``exact``, ``row_floor``: as in ``TileLayout``."""
    return lambda runner: PlainOps(runner, exact, row_floor)


class PlainOps:
    """Plain torch; passes of few rows are recorded on a CPU."""

    def __init__(self, runner: Runner, exact: bool, row_floor: int) -> None:
        self._layout = TileLayout(row_floor, exact, runner.shared_heads, runner.device)
        self.programs = RecordedPrograms(runner)
        self._exact = exact

    def lay_out(self, plan: Sequence[Scheduled]) -> Batch:
        return self._layout(plan)

    def attention(self, caches: KVCaches, batch: Batch) -> Attend:
        def attend(
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
            keys, values = caches[layer]
            kv_cache.write(keys, key[0], batch.slots)
            kv_cache.write(values, value[0], batch.slots)
            return paged_attention(
                query[0],
                keys,
                values,
                batch.tiles,
                scale=scale,
                window=window,
                softcap=softcap,
                sinks=sinks,
                exact=self._exact,
            )[None]

        return attend

    def write_rotated(self, caches: KVCaches, batch: Batch) -> WriteRotated | None:
        return None

    def move(self, caches: KVCaches, source: list[int], target: list[int]) -> None:
        device = next(iter(caches.values()))[0].device
        kv_cache.move(
            list(caches.values()),
            torch.tensor(source, device=device),
            torch.tensor(target, device=device),
        )
