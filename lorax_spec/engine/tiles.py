"""Rows grouped into tiles for attention in plain torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch

from lorax_spec.engine.blocks import NULL_BLOCK
from lorax_spec.engine.lanes import EXACT_ROWS, NARROW, WIDE
from lorax_spec.engine.rows import slots_of
from lorax_spec.engine.scheduler import Scheduled
from lorax_spec.kernels.attention import KEY_CHUNK, Branches, Tiles
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.speculation.tree import DraftTree


@dataclass(frozen=True)
class _Strand:
    """Rows of one sequence that form a causal run: known tokens, or one path of its draft, or
    known tokens with all of a draft that branches (``tree``).

    ``moved`` maps key positions to scratch slots where a path's key is not at its own position.
    """

    blocks: Sequence[int]
    rows: list[int]
    positions: list[int]
    moved: dict[int, int]
    tree: _Tree | None = None

    @property
    def last_key(self) -> int:
        """The highest key index that its rows may see."""
        if self.tree is None:
            return self.positions[-1]
        return self.tree.first_key + len(self.tree.draft) - 1


@dataclass(frozen=True)
class _Tree:
    """A draft within a strand: its nodes are the keys from ``first_key`` on, and the rows from
    ``first_row`` of the strand on (negative for a tile that was cut from its middle)."""

    draft: DraftTree
    first_key: int
    first_row: int


def lay_tiles(
    plan: Sequence[Scheduled],
    starts: Sequence[int],
    padding: int,
    row_floor: int,
    shared_heads: int,
    device: torch.device,
    *,
    exact: bool,
) -> tuple[Tiles, ...]:
    """All rows of ``plan`` in tiles, and ``padding`` rows behind them.

    Args:
        starts: the first row of every scheduled sequence, and the number of rows last.
        row_floor, shared_heads, exact: as in ``TileLayout``.
    """
    strands: list[_Strand] = []
    for scheduled, first in zip(plan, starts, strict=False):
        strands += _paths(scheduled, first) if exact else [_whole(scheduled, first)]
    # Whole chunks where their sums decide the bits; else no more keys than the context needs.
    step = KEY_CHUNK if exact else 2 * BLOCK_SIZE
    width_floor = -(-(EXACT_ROWS if exact else row_floor) // shared_heads)
    return tuple(_tiles(strands, starts[-1], padding, width_floor, step, device))


def _whole(scheduled: Scheduled, first: int) -> _Strand:
    """The known tokens with all of the draft."""
    sequence, draft = scheduled.sequence, scheduled.draft
    known, end = len(sequence.tokens), scheduled.start + scheduled.count
    rows = list(range(first, first + scheduled.count + len(draft)))
    positions = [*range(scheduled.start, end), *(known - 1 + depth for depth in draft.depths)]
    tree = None if draft.is_chain else _Tree(draft, known, scheduled.count)
    return _Strand(sequence.blocks, rows, positions, {}, tree)


def _paths(scheduled: Scheduled, first: int) -> Iterator[_Strand]:
    """The known tokens with the draft's first path, then each further path's own nodes."""
    sequence, draft = scheduled.sequence, scheduled.draft
    known = len(sequence.tokens)
    rows = list(range(first, first + scheduled.count))
    positions = list(range(scheduled.start, scheduled.start + scheduled.count))
    if not draft:
        yield _Strand(sequence.blocks, rows, positions, {})
        return
    covered: set[int] = set()
    for path in draft.paths:
        scratch = slots_of(sequence.blocks, range(known, known + len(draft)))
        moved = {known + depth: scratch[node] for depth, node in enumerate(path) if depth != node}
        for depth, node in enumerate(path):
            if node not in covered:
                covered.add(node)
                rows.append(first + scheduled.count + node)
                positions.append(known + depth)
        yield _Strand(sequence.blocks, rows, positions, moved)
        rows, positions = [], []


def _tiles(
    strands: list[_Strand],
    rows: int,
    padding: int,
    floor: int,
    step: int,
    device: torch.device,
) -> Iterator[Tiles]:
    """Cut strands into tiles, and group those of like width and length."""
    groups: dict[tuple[int, int], list[_Strand]] = {}
    for strand in strands:
        size = NARROW if len(strand.rows) <= NARROW else WIDE
        for start in range(0, len(strand.rows), size):
            cut = slice(start, start + size)
            tree = strand.tree and replace(strand.tree, first_row=strand.tree.first_row - start)
            tile = _Strand(
                strand.blocks, strand.rows[cut], strand.positions[cut], strand.moved, tree
            )
            chunks = tile.last_key // KEY_CHUNK
            # Tiles are padded to the widest of their group.
            width = max(floor, len(tile.rows))
            groups.setdefault(((width - 1).bit_length(), chunks.bit_length()), []).append(tile)
    if padding:
        null = _Strand([NULL_BLOCK], list(range(rows, rows + padding)), [0] * padding, {})
        groups.setdefault(((max(floor, padding) - 1).bit_length(), 0), []).append(null)
    for tiles in groups.values():
        yield _stack(tiles, floor, step, rows + padding, device)


def _stack(
    tiles: list[_Strand], floor: int, step: int, batch_rows: int, device: torch.device
) -> Tiles:
    width = max(floor, max(len(tile.rows) for tile in tiles))
    longest = max(tile.last_key for tile in tiles) + 1
    blocks = -(-longest // step) * step // BLOCK_SIZE

    def padded(values: Sequence[int], length: int, pad: int) -> list[int]:
        return [*values[:length], *[pad] * (length - len(values))]

    table = torch.tensor([padded(t.blocks, blocks, NULL_BLOCK) for t in tiles], device=device)
    slots = table[:, :, None] * BLOCK_SIZE + torch.arange(BLOCK_SIZE, device=device)
    key_slots = slots.flatten(1)
    moves = [(i, p, s) for i, tile in enumerate(tiles) for p, s in tile.moved.items()]
    if moves:
        tile_index, position, slot = torch.tensor(moves, device=device).T
        within = position < key_slots.shape[1]
        key_slots[tile_index[within], position[within]] = slot[within]
    rows = [padded(t.rows, width, t.rows[-1]) for t in tiles]
    branching = any(tile.tree for tile in tiles)
    return Tiles(
        rows=torch.tensor(rows, device=device),
        positions=torch.tensor(
            [padded(t.positions, width, t.positions[-1]) for t in tiles], device=device
        ),
        key_slots=key_slots,
        key_blocks=None if moves else table,
        in_order=list(chain.from_iterable(rows)) == list(range(batch_rows)),
        branches=_branches(tiles, width, key_slots.shape[1], device) if branching else None,
    )


def _branches(tiles: list[_Strand], width: int, keys: int, device: torch.device) -> Branches:
    """Where the nodes of the tiles' trees stand, and which rows do not see them."""
    key_positions = torch.arange(keys, device=device).repeat(len(tiles), 1)
    places: list[tuple[int, int, int]] = []
    hidden: list[tuple[int, int, int]] = []
    for index, tile in enumerate(tiles):
        if (tree := tile.tree) is None:
            continue
        last = len(tile.rows) - 1
        for node, depth in enumerate(tree.draft.depths):
            places.append((index, tree.first_key + node, tree.first_key - 1 + depth))
        for node, other in tree.draft.unseen:
            if 0 <= (row := tree.first_row + node) <= last:
                # Rows that pad a tile repeat its last one.
                rows = range(row, width) if row == last else (row,)
                hidden += ((index, r, tree.first_key + other) for r in rows)
    tile_index, key, position = torch.tensor(places, device=device).T
    key_positions[tile_index, key] = position
    mask = torch.zeros(len(tiles), width, keys, dtype=torch.bool, device=device)
    if hidden:
        tile_index, row_index, key = torch.tensor(hidden, device=device).T
        mask[tile_index, row_index, key] = True
    return Branches(key_positions, mask)
