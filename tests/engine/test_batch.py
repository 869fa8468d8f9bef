"""How a plan's rows are laid out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.engine.batch import Batch, TileLayout
from lorax_spec.engine.blocks import NULL_BLOCK
from lorax_spec.engine.scheduler import Scheduled
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.speculation.tree import EMPTY, ROOT, DraftTree
from tests.engine.sequences import sequence

CPU = torch.device("cpu")


def built(*plan: Scheduled, floor: int = 1, exact: bool = False) -> Batch:
    return TileLayout(floor, exact, 2, CPU)(plan)


def seen(batch: Batch, window: int | None = None) -> dict[int, list[int]]:
    """The slots whose keys each row sees, in the order of their positions."""
    slots: dict[int, list[int]] = {}
    for tiles in batch.tiles:
        visible = tiles.bias(window)[:, 0] == 0
        for i, rows in enumerate(tiles.rows.tolist()):
            for j, row in enumerate(rows):
                keys = visible[i, j].nonzero()[:, 0]
                if tiles.branches is not None:
                    keys = keys[tiles.branches.key_positions[i, keys].argsort(stable=True)]
                found = tiles.key_slots[i, keys].tolist()
                assert slots.setdefault(row, found) == found, "rows that pad a tile are repeats"
    return slots


def prefill(start: int, count: int, known: int, blocks: list[int]) -> Scheduled:
    own = sequence(known)
    own.blocks = blocks
    return Scheduled(own, start, count, EMPTY)


def drafted(tree: DraftTree, known: int, blocks: list[int]) -> Scheduled:
    own = sequence(known)
    own.blocks = blocks
    return Scheduled(own, known - 1, 1, tree)


TREE = DraftTree((7, 8, 9), (ROOT, ROOT, 1), ("test",) * 3)


def test_rows_follow_one_another() -> None:
    """A node's position is its depth's; its slot, its own."""
    batch = built(prefill(14, 4, 20, [5, 2]), drafted(TREE, 31, [3, 4, 1]))
    assert batch.ids.tolist() == [14, 15, 16, 17, 30, 7, 8, 9]
    assert batch.positions.tolist() == [14, 15, 16, 17, 30, 31, 31, 32]
    five, two, four, one = (block * BLOCK_SIZE for block in (5, 2, 4, 1))
    assert batch.slots.tolist() == [
        *(five + 14, five + 15, two, two + 1),
        *(four + 14, four + 15, one, one + 1),
    ]


def test_logits_are_kept_where_a_token_is_chosen() -> None:
    unfinished, finished = prefill(0, 4, 20, [1, 2]), prefill(16, 4, 20, [1, 2])
    batch = built(unfinished, finished, drafted(TREE, 31, [3, 4, 1]))
    assert batch.kept.tolist() == [7, 8, 9, 10, 11]
    assert batch.first_kept[1:] == (0, 1)


def test_all_logits_of_a_prompt_are_kept_for_its_logprobs() -> None:
    wants = prefill(4, 4, 20, [1, 2])
    wants.sequence.prefill_logprobs = []
    batch = built(wants, prefill(16, 4, 20, [1, 2]))
    assert batch.kept.tolist() == [0, 1, 2, 3, 7]
    assert batch.first_kept == (3, 4), "where the last known token's are"


@pytest.mark.parametrize("floor", [1, 4, 8, 16])
def test_no_product_has_fewer_rows_than_the_floor(floor: int) -> None:
    """Padding computes into the null block and is looked at by nobody."""
    batch = built(prefill(0, 2, 2, [1]), floor=floor)
    rows = max(2, floor)
    assert len(batch.ids) == len(batch.positions) == len(batch.slots) == rows
    null = NULL_BLOCK * BLOCK_SIZE
    assert all(null <= slot < null + BLOCK_SIZE for slot in batch.slots[2:].tolist())
    assert len(batch.kept) == max(1, floor)
    assert set(batch.kept.tolist()) == {1}
    in_tiles = {row for tiles in batch.tiles for row in tiles.rows.flatten().tolist()}
    assert in_tiles == set(range(rows))
    shared_heads = 2
    assert all(tiles.rows.shape[1] * shared_heads >= floor for tiles in batch.tiles)


@pytest.mark.parametrize("exact", [True, False])
def test_a_node_sees_its_own_path(exact: bool) -> None:
    """Node 2, at depth 2 under node 1, sees node 1 at its parent's position, not node 0."""
    keys = seen(built(drafted(TREE, 31, [3, 4, 1]), exact=exact))
    context = [3 * BLOCK_SIZE + i for i in range(16)] + [4 * BLOCK_SIZE + i for i in range(15)]
    scratch = [4 * BLOCK_SIZE + 15, BLOCK_SIZE, BLOCK_SIZE + 1]
    assert keys[0] == context
    assert keys[1] == [*context, scratch[0]]
    assert keys[2] == [*context, scratch[1]]
    assert keys[3] == [*context, scratch[1], scratch[2]]


@st.composite
def trees(draw: st.DrawFn) -> DraftTree:
    parents = [draw(st.integers(ROOT, i - 1)) for i in range(draw(st.integers(0, 40)))]
    return DraftTree(tuple(range(len(parents))), tuple(parents), ("test",) * len(parents))


@given(
    drawn=st.lists(st.tuples(trees(), st.integers(1, 150)), min_size=1, max_size=4),
    window=st.sampled_from([None, 1, 3, 40]),
    floor=st.sampled_from([1, 8]),
)
def test_both_layouts_show_a_row_the_same(
    drawn: list[tuple[DraftTree, int]], window: int | None, floor: int
) -> None:
    """A tree in one tile, or path by path."""
    plan, block = [], 1
    for tree, known in drawn:
        blocks = list(range(block, block + 13))
        plan.append(drafted(tree, known, blocks))
        block += 13
    assert seen(built(*plan, floor=floor), window) == seen(
        built(*plan, floor=floor, exact=True), window
    )
