"""Paged attention in Triton against float64, over ragged batches of prompts, drafts and nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.kernels import attention as plain
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.kernels.ragged import MASK_BITS, RaggedRows
from lorax_spec.kernels.ragged_attention import ragged_attention
from lorax_spec.kernels.triton.attention import chunks_of, paged_attention, tile_of
from lorax_spec.kernels.triton.attention_split import workspace
from tests.kernels.triton.attended import PADDING, Heads, Run, check, exact, fill, lay, runs

#: Interpreted kernels take milliseconds for each of their programs.
pytestmark = pytest.mark.slow


@settings(max_examples=12)
@given(
    runs=runs,
    heads=st.builds(
        Heads,
        st.integers(1, 2),
        st.sampled_from([1, 2, 3, 7]),
        st.sampled_from([32, 64, 80]),
        st.sampled_from([32, 64, 96]),
    ),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    window=st.sampled_from([None, 1, 5, 33, 100]),
    softcap=st.sampled_from([None, 3.0]),
    with_sinks=st.booleans(),
    parts=st.sampled_from([(1, None), (1, None), (2, None), (3, None), (1, 64)]),
    seed=st.integers(0, 1000),
)
def test_equals_float64(
    device: torch.device,
    runs: list[Run],
    heads: Heads,
    dtype: torch.dtype,
    window: int | None,
    softcap: float | None,
    with_sinks: bool,
    parts: tuple[int, int | None],
    seed: int,
) -> None:
    splits, chunk = parts
    check(
        runs, heads, device, dtype=dtype, window=window, softcap=softcap, with_sinks=with_sinks,
        splits=splits, chunk=chunk, seed=seed,
    )  # fmt: skip


@pytest.mark.parametrize(("window", "splits"), [(None, 1), (3, 2)])
def test_whole_trees_of_64_nodes(device: torch.device, window: int | None, splits: int) -> None:
    chain = tuple(range(-1, MASK_BITS - 1))
    bush = tuple((node - 1) // 2 for node in range(MASK_BITS))  # (0 - 1) // 2 is no node
    runs = [Run(60, 1, chain), Run(0, 5), Run(30, 3, bush)]
    check(runs, Heads(1, 2, 64, 64), device, window=window, splits=splits, with_sinks=splits > 1)


@pytest.mark.parametrize("shape", [(1, 4, 128, 128), (1, 2, 256, 256), (1, 20, 32, 32)])
@pytest.mark.parametrize("longest", [1, 30])
def test_usual_heads(device: torch.device, shape: tuple[int, ...], longest: int) -> None:
    check([Run(70, longest), Run(3, 1)], Heads(*shape), device, dtype=torch.float16)


@pytest.mark.parametrize("splits", [1, 2])
def test_bfloat16_loosely(device: torch.device, splits: int) -> None:
    runs = [Run(100, 2, (-1, 0, 0)), Run(0, 9)]
    check(runs, Heads(2, 2, 64, 64), device, dtype=torch.bfloat16, window=50, splits=splits)


def test_far_logits(device: torch.device) -> None:
    """Scores of hundreds neither overflow nor vanish, with and without a soft cap."""
    generator = torch.Generator().manual_seed(3)
    runs = [Run(40, 4)]
    rows = lay(runs, device, generator)
    inputs = fill(runs, rows, Heads(1, 1, 32, 32), torch.float32, generator)
    for softcap in (None, 30.0):
        how: dict[str, Any] = {"scale": 100.0, "softcap": softcap}
        for sinks in (None, torch.tensor([300.0], device=device)):
            found = paged_attention(
                inputs.query, inputs.keys, inputs.values, rows, sinks=sinks, **how
            )
            torch.testing.assert_close(
                found[:-PADDING].double(), exact(inputs, rows, sinks, **how), atol=1e-3, rtol=1e-3
            )


def alone(rows: RaggedRows, first: int, end: int, sequence: int) -> RaggedRows:
    """Known rows ``first..end`` of a step, as a step of their own."""
    known = rows.positions[end - 1 : end] + 1
    return RaggedRows(
        row_starts=torch.tensor([0, end - first], dtype=torch.int32, device=known.device),
        draft_starts=torch.tensor([end - first], dtype=torch.int32, device=known.device),
        known=known,
        positions=rows.positions[first:end],
        ancestors=rows.ancestors[first:end],
        block_tables=rows.block_tables[sequence : sequence + 1],
        longest_query=end - first,
        longest_context=int(known),
    )


@settings(max_examples=4)
@given(
    window=st.sampled_from([None, 20, 90]),
    softcap=st.sampled_from([None, 3.0]),
    with_sinks=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    seed=st.integers(0, 1000),
)
def test_with_chunks_a_row_has_the_same_bits_in_any_company(
    device: torch.device,
    window: int | None,
    softcap: float | None,
    with_sinks: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    """Alone, in a part of its prompt, in a crowd; chunks one after another or side by side."""
    generator = torch.Generator().manual_seed(seed)
    runs = [Run(150, 1), Run(0, 25), Run(90, 3, (-1, 0, 0, 2))]
    rows = lay(runs, device, generator)
    inputs = fill(runs, rows, Heads(1, 3, 32, 64), dtype, generator)
    sinks = torch.randn(3, generator=generator).to(device, dtype) if with_sinks else None

    def attend(query: torch.Tensor, some: RaggedRows, *, apart: bool) -> torch.Tensor:
        return paged_attention(
            query, inputs.keys, inputs.values, some, scale=0.2, window=window, softcap=softcap,
            sinks=sinks, chunk=64, splits=chunks_of(some.longest_context, 64) if apart else 1,
        )  # fmt: skip

    crowd = attend(inputs.query, rows, apart=False)
    assert torch.equal(crowd[:-PADDING], attend(inputs.query, rows, apart=True)[:-PADDING])
    for first, end, sequence in ((0, 1, 0), (7, 24, 1), (25, 26, 1), (27, 29, 2)):
        own = attend(inputs.query[:, first:end], alone(rows, first, end, sequence), apart=end > 20)
        assert torch.equal(own, crowd[first:end])


def test_with_chunks_a_chain_of_guesses_has_the_bits_of_plain_decoding(
    device: torch.device,
) -> None:
    generator = torch.Generator().manual_seed(5)
    guessed, decoded = [Run(120, 1, tuple(range(-1, 9)))], [Run(120, 11)]
    rows = lay(guessed, device, generator)
    inputs = fill(guessed, rows, Heads(1, 2, 64, 64), torch.float32, generator)
    plainly = replace(lay(decoded, device, generator), block_tables=rows.block_tables)
    found, wanted = (
        paged_attention(
            inputs.query, inputs.keys, inputs.values, some, scale=0.1, window=50, chunk=64
        )[:-PADDING]
        for some in (rows, plainly)
    )
    assert torch.equal(found, wanted)


def test_workspace_may_be_larger_and_is_reused(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(9)
    runs = [Run(200, 1), Run(10, 2)]
    rows = lay(runs, device, generator)
    inputs = fill(runs, rows, Heads(2, 1, 32, 32), torch.float32, generator)
    room = workspace(9, 2, 32, 5, device)
    for tensor in (room.tops, room.weights, room.sums):
        tensor.fill_(torch.nan)  # nothing is read that this launch did not write
    for window in (None, 3):
        found = paged_attention(
            inputs.query, inputs.keys, inputs.values, rows,
            scale=0.2, window=window, splits=4, workspace=room,
        )  # fmt: skip
        wanted = exact(inputs, rows, None, scale=0.2, window=window)
        torch.testing.assert_close(found[:-PADDING].double(), wanted, atol=2e-5, rtol=2e-5)


def test_chunks_must_fit_tiles_and_splits(device: torch.device) -> None:
    rows = lay([Run(200, 1)], device, torch.Generator().manual_seed(0))
    inputs = fill([Run(200, 1)], rows, Heads(1, 1, 32, 32), torch.float32, torch.Generator())
    with pytest.raises(ValueError, match="no multiple"):
        paged_attention(inputs.query, inputs.keys, inputs.values, rows, scale=1.0, chunk=50)
    with pytest.raises(ValueError, match="3 splits"):
        paged_attention(
            inputs.query, inputs.keys, inputs.values, rows, scale=1.0, chunk=64, splits=3
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("group", [1, 4, 7, 71])
@pytest.mark.parametrize("longest_query", [None, 1, 8, 65, 2048])
def test_a_tile_takes_whole_rows(dtype: torch.dtype, group: int, longest_query: int | None) -> None:
    tile = tile_of(group, 128, 128, dtype, longest_query)
    assert tile.queries >= max(16, group)
    assert tile.keys % BLOCK_SIZE == 0


def test_reference_equals_torchs_attention() -> None:
    generator = torch.Generator().manual_seed(1)
    device = torch.device("cpu")
    runs = [Run(0, 30)]
    rows = lay(runs, device, generator)
    inputs = fill(runs, rows, Heads(2, 3, 16, 8), torch.float64, generator)
    slots = (rows.block_tables[0].long()[:, None] * BLOCK_SIZE + torch.arange(BLOCK_SIZE)).flatten()
    found = ragged_attention(inputs.query, inputs.keys, inputs.values, rows, scale=0.3)
    wanted = F.scaled_dot_product_attention(
        inputs.query[:, :-PADDING],
        inputs.keys[:, slots[:30]],
        inputs.values[:, slots[:30]],
        is_causal=True,
        scale=0.3,
        enable_gqa=True,
    )
    torch.testing.assert_close(found[:-PADDING], wanted.transpose(0, 1))


@pytest.mark.parametrize("window", [None, 4, 12])
def test_reference_equals_attention_path_by_path(window: int | None) -> None:
    """Every path of a tree as a causal sequence, by the attention of plain torch's engine."""
    generator = torch.Generator().manual_seed(2)
    run = Run(17, 2, (-1, 0, 1, 0, -1, 4, 3))
    paths = ((0, 1, 2), (0, 3, 6), (4, 5))
    rows = lay([run], torch.device("cpu"), generator)
    inputs = fill([run], rows, Heads(2, 2, 16, 16), torch.float64, generator)
    sinks = torch.randn(4, generator=generator, dtype=torch.float64)
    how: dict[str, Any] = {"scale": 0.3, "window": window, "softcap": 4.0, "sinks": sinks}
    found = ragged_attention(inputs.query, inputs.keys, inputs.values, rows, **how)

    table = rows.block_tables[0].long()
    for path in paths:
        known = run.past + run.new
        key = torch.tensor([*range(known), *(known + node for node in path)])
        slots = table[key // BLOCK_SIZE] * BLOCK_SIZE + key % BLOCK_SIZE
        own = torch.tensor([0, 1, *(run.new + node for node in path)])
        tiles = plain.Tiles(
            rows=torch.arange(len(own))[None],
            positions=rows.positions[own][None].long(),
            key_slots=slots[None],
        )
        wanted = plain.paged_attention(
            inputs.query[:, own], inputs.keys, inputs.values, (tiles,), **how
        )
        torch.testing.assert_close(found[own], wanted, atol=1e-5, rtol=1e-5)
