"""From a plan (plain data) to a step's tensors, for plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorax_spec.engine.blocks import NULL_BLOCK
from lorax_spec.engine.lanes import AdaptedRows, lay_lanes
from lorax_spec.engine.rows import lay_rows
from lorax_spec.engine.scheduler import Scheduled
from lorax_spec.engine.tiles import lay_tiles
from lorax_spec.kernels.attention import Tiles
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.kernels.ragged import RaggedRows


@dataclass(frozen=True)
class Batch:
    """One forward pass.

    ``ids``, ``positions``, ``slots``: int64 [rows].  ``kept``: int64 [kept rows], the rows whose
    logits are wanted.  ``first_kept[i]``: where those of the i-th scheduled sequence begin; its
    draft's node ``n`` is ``n + 1`` after its last known token's.  ``lanes`` are of all rows,
    ``output_lanes`` of those kept rows whose adapters change the output embedding, counted among
    the kept rows.  ``kept_in_order``: these are the first of all, but for those that only pad.
    ``tiles`` say which keys rows see in plain torch, ``ragged`` says it to kernels; ``bucket``:
    numbers of rows and of sequences, where a captured graph may compute them.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    kept: torch.Tensor
    first_kept: tuple[int, ...]
    lanes: tuple[AdaptedRows, ...]
    output_lanes: tuple[AdaptedRows, ...] = ()
    kept_in_order: bool = False
    tiles: tuple[Tiles, ...] = ()
    ragged: RaggedRows | None = None
    bucket: tuple[int, int] | None = None


@dataclass(frozen=True)
class TileLayout:
    """Lays out plans for plain torch.

    ``row_floor``: fewest rows of any product (see ``determinism``); shorter batches are padded.
    ``exact``: every row's results must have the same bits in any batch.  ``shared_heads``: query
    heads per key head, which multiply the rows of attention's products.
    """

    row_floor: int
    exact: bool
    shared_heads: int
    device: torch.device

    def __call__(self, plan: Sequence[Scheduled]) -> Batch:
        rows = lay_rows(plan)
        kept = rows.kept + rows.kept[-1:] * max(0, self.row_floor - len(rows.kept))
        padding = max(0, self.row_floor - len(rows.ids))

        def tensor(values: list[int], pad: int) -> torch.Tensor:
            return torch.tensor(values + [pad] * padding, dtype=torch.int64, device=self.device)

        return Batch(
            ids=tensor(rows.ids, 0),
            positions=tensor(rows.positions, 0),
            slots=tensor(rows.slots, NULL_BLOCK * BLOCK_SIZE),
            kept=torch.tensor(kept, dtype=torch.int64, device=self.device),
            first_kept=rows.first_kept,
            tiles=lay_tiles(
                plan,
                rows.starts,
                padding,
                self.row_floor,
                self.shared_heads,
                self.device,
                exact=self.exact,
            ),
            lanes=tuple(lay_lanes(rows.adapted, self.exact, self.device)),
            output_lanes=tuple(lay_lanes(rows.output_adapted, self.exact, self.device)),
            kept_in_order=rows.kept_in_order,
        )
