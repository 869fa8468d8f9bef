"""LoRA where every row names its adapter's slot: how rows are grouped, and the plain-torch twin.

Semantics, for every row ``i`` of slot ``s = slot_of_row[i]``, where the slot's adapter changes the
module at all::

    y[i] += scale[s] * (x[i] @ A[s].T) @ B[s].T

Rows of a negative slot are the base model's and stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

#: Rows of a tile at most: the fewest that tensor cores multiply at once.
TILE_ROWS = 16


@dataclass(frozen=True)
class Grouping:
    """Rows cut into tiles of one slot each, so that a tile reads its adapter's weights once.

    All int32 and of sizes that a captured graph keeps.
    ``order`` [rows]: tile ``t`` has the rows ``order[tile_starts[t] + j]`` for ``j`` below
    ``tile_counts[t]``; entries of no tile mean nothing.
    ``tile_slots`` [tiles]: the slot of all rows of the tile, or -1, and then it has no work.
    ``tile_starts``, ``tile_counts`` [tiles]: counts are at most ``TILE_ROWS``.
    """

    order: torch.Tensor
    tile_slots: torch.Tensor
    tile_starts: torch.Tensor
    tile_counts: torch.Tensor


def most_tiles(rows: int, slots: int) -> int:
    """Tiles that ``rows`` rows of at most ``slots`` slots take in the worst case."""
    used = min(rows, slots)
    return used + (rows - used) // TILE_ROWS


def group_rows(slot_of_row: Sequence[int], tiles: int) -> Grouping:
    """On the CPU; tiles come in the order in which slots first appear.

    Args:
        slot_of_row: negative for rows of no adapter.
        tiles: how many there are to be, see ``most_tiles``.

    Raises:
        ValueError: that is too few.
    """
    rows_of: dict[int, list[int]] = {}
    for row, slot in enumerate(slot_of_row):
        if slot >= 0:
            rows_of.setdefault(slot, []).append(row)
    order: list[int] = []
    found: list[tuple[int, int, int]] = []
    for slot, rows in rows_of.items():
        for start in range(0, len(rows), TILE_ROWS):
            own = rows[start : start + TILE_ROWS]
            found.append((slot, len(order), len(own)))
            order += own
    if len(found) > tiles:
        raise ValueError(f"{len(found)} tiles of rows, room for {tiles}")
    order += [0] * (len(slot_of_row) - len(order))
    found += [(-1, 0, 0)] * (tiles - len(found))
    slots, starts, counts = torch.tensor(found, dtype=torch.int32).view(-1, 3).T.contiguous()
    return Grouping(torch.tensor(order, dtype=torch.int32), slots, starts, counts)


def add_lora_rows(
    y: torch.Tensor,
    x: torch.Tensor,
    slot_of_row: torch.Tensor,
    a: Sequence[torch.Tensor | None],
    b: Sequence[torch.Tensor | None],
    scales: Sequence[float],
) -> None:
    """Add the updates of one module to ``y`` [rows, out_features] in place.

    Args:
        x: [rows, in_features].
        slot_of_row: int64 [rows].
        a, b: of every slot [rank, in_features] and [out_features, rank], or None where its adapter
            does not change the module.
        scales: of every slot.
    """
    for slot, (down, up, scale) in enumerate(zip(a, b, scales, strict=True)):
        rows = (slot_of_row == slot).nonzero().flatten()
        if down is not None and up is not None and len(rows):
            update = scale * (x.index_select(0, rows) @ down.T) @ up.T
            y.index_add_(0, rows, update)
