"""Passes computed by kernels: on a GPU, or anywhere in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorax_spec.engine.batch import Batch
from lorax_spec.engine.captured import CapturedPrograms
from lorax_spec.engine.ragged_layout import RaggedLayout
from lorax_spec.engine.scheduler import Scheduled
from lorax_spec.engine.slots import AdapterSlots
from lorax_spec.engine.step_ops import Attend, KVCaches, OpsOf, Runner, WriteRotated
from lorax_spec.kernels.ragged import RaggedRows
from lorax_spec.kernels.triton import kv_cache
from lorax_spec.kernels.triton.attention import chunks_of, paged_attention
from lorax_spec.kernels.triton.kv_cache import CacheTable
from lorax_spec.kernels.triton.rope import rotate_and_write

#: Keys per part of exact attention; fixed, since the order of summation decides the last bit.
_CHUNK = 512
#: Queries of a sequence for which its keys are shared out among programs, which takes room for
#: each of them.
_MOST_SPLIT_QUERIES = 65
#: Programs that share a tile's keys at most, and how many programs keep a processor busy.
_MOST_SPLITS, _PROGRAMS = 16, 2


def kernel_ops(*, exact: bool, most_tokens: int, slots: int, graphs: bool) -> OpsOf:
    """Kernels instead of plain torch.

    Args:
        exact: a row's attention has the same bits in any batch.
        most_tokens: no sequence is longer.
        slots: no step has rows of more adapters.
        graphs: steps of few rows are padded to sizes that come again, and captured on a GPU.
    """
    return lambda runner: KernelOps(runner, exact, most_tokens, slots, graphs)


class KernelOps:
    """Attention, cache and LoRA by kernels; steps of few rows as captured graphs on a GPU."""

    def __init__(
        self, runner: Runner, exact: bool, most_tokens: int, slots: int, graphs: bool
    ) -> None:
        self.programs = CapturedPrograms(runner)
        self._slots = AdapterSlots(runner.adapted_paths, slots, runner.device)
        self._layout = RaggedLayout(most_tokens, self._slots, slots, runner.device, padded=graphs)
        self._exact = exact
        self._device = runner.device
        self._processors = _processors(runner.device)
        self._table: CacheTable | None = None

    def lay_out(self, plan: Sequence[Scheduled]) -> Batch:
        return self._layout(plan)

    def attention(self, caches: KVCaches, batch: Batch) -> Attend:
        ragged = batch.ragged
        assert ragged is not None

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
            if not written:
                kv_cache.write(keys, values, key[0], value[0], batch.slots)
            heads, rows = query.shape[1:3]
            # Rows that only pad are not written, and garbage there might not be finite.
            out = query.new_zeros(rows, heads, values.shape[-1])
            paged_attention(
                query[0],
                keys,
                values,
                ragged,
                scale=scale,
                window=window,
                softcap=softcap,
                sinks=sinks,
                splits=self._splits(ragged, keys.shape[0]),
                chunk=_CHUNK if self._exact else None,
                out=out,
            )
            return out[None]

        return attend

    def write_rotated(self, caches: KVCaches, batch: Batch) -> WriteRotated | None:
        def write(
            layer: int,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            cos: torch.Tensor,
            sin: torch.Tensor,
        ) -> torch.Tensor:
            return rotate_and_write(query, key, value, cos, sin, *caches[layer], batch.slots)

        return write

    def move(self, caches: KVCaches, source: list[int], target: list[int]) -> None:
        if self._table is None:
            self._table = CacheTable.of(list(caches.values()))
        pairs = torch.tensor([source, target], device=self._device)
        starts = torch.tensor([0, len(source)], dtype=torch.int32, device=self._device)
        kv_cache.move(self._table, pairs[0], pairs[1], starts)

    def _splits(self, ragged: RaggedRows, kv_heads: int) -> int:
        """By what a launch is sized by alone, since a graph is captured once."""
        if self._exact:
            # The same bits either way; a prompt fills the processors by itself.
            long = ragged.longest_query > _MOST_SPLIT_QUERIES
            return 1 if long else chunks_of(ragged.longest_context, _CHUNK)
        programs = max(1, len(ragged.known)) * kv_heads
        return max(1, min(_MOST_SPLITS, _PROGRAMS * self._processors // programs))


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
