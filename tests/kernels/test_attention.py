"""Paged attention against float64 softmax attention, over ragged batches and shuffled blocks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.kernels import kv_cache
from lorax_spec.kernels.attention import KEY_CHUNK, Tiles, paged_attention
from lorax_spec.kernels.kv_cache import BLOCK_SIZE

HEAD_DIM = 16


def _exact(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    position: int,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """One row in float64: query [heads, dim], keys and values [kv_heads, tokens, dim]."""
    share = query.shape[0] // keys.shape[0]
    first = 0 if window is None else max(0, position + 1 - window)
    k = keys[:, first : position + 1].double().repeat_interleave(share, 0)
    v = values[:, first : position + 1].double().repeat_interleave(share, 0)
    scores = torch.einsum("hd,hkd->hk", query.double(), k) / math.sqrt(query.shape[1])
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if sinks is not None:
        scores = torch.cat([scores, sinks.double()[:, None]], 1)
    weights = scores.softmax(-1)[:, : k.shape[1]]
    return torch.einsum("hk,hkd->hd", weights, v)


@settings(max_examples=40, deadline=None)
@given(
    runs=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 9)), min_size=1, max_size=4),
    share=st.sampled_from([1, 2, 4]),
    window=st.sampled_from([None, 1, 8, 200]),
    softcap=st.sampled_from([None, 5.0]),
    with_sinks=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_float64_attention(
    runs: list[tuple[int, int]],
    share: int,
    window: int | None,
    softcap: float | None,
    with_sinks: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    kv_heads, heads = 2, 2 * share
    blocks_each = (310 + KEY_CHUNK) // KEY_CHUNK * KEY_CHUNK // BLOCK_SIZE
    order = torch.randperm(len(runs) * blocks_each, generator=generator)
    tables = order.view(len(runs), blocks_each)
    cpu = torch.device("cpu")
    keys, values = kv_cache.allocate(
        kv_heads, order.numel(), HEAD_DIM, HEAD_DIM, torch.float32, cpu
    )
    width = max(length for _, length in runs)
    total = sum(length for _, length in runs)
    query = torch.randn(heads, total, HEAD_DIM, generator=generator)
    sinks = torch.randn(heads, generator=generator) if with_sinks else None
    rows, positions, key_slots, expected = [], [], [], []
    row = 0
    for table, (context, length) in zip(tables, runs, strict=True):
        slots = (table[:, None] * BLOCK_SIZE + torch.arange(BLOCK_SIZE)).flatten()
        k = torch.randn(kv_heads, context + length, HEAD_DIM, generator=generator)
        v = torch.randn(kv_heads, context + length, HEAD_DIM, generator=generator)
        kv_cache.write(keys, k, slots[: context + length])
        kv_cache.write(values, v, slots[: context + length])
        own = list(range(row, row + length))
        at = list(range(context, context + length))
        for r, p in zip(own, at, strict=True):
            expected.append(_exact(query[:, r], k, v, p, window, softcap, sinks))
        rows.append(own + own[-1:] * (width - length))
        positions.append(at + at[-1:] * (width - length))
        key_slots.append(slots)
        row += length
    tiles = Tiles(torch.tensor(rows), torch.tensor(positions), torch.stack(key_slots))
    out = paged_attention(
        query,
        keys,
        values,
        (tiles,),
        scale=HEAD_DIM**-0.5,
        window=window,
        softcap=softcap,
        sinks=sinks,
    )
    # float32 sums of a few hundred terms of order one
    torch.testing.assert_close(out.double(), torch.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_longer_neighbours_change_no_bit(dtype: torch.dtype) -> None:
    """Key chunks beyond a row's own context leave its result as it was."""
    torch.manual_seed(0)
    keys, values = (torch.randn(2, 1024, 32).to(dtype) for _ in range(2))
    query = torch.randn(4, 8, 32).to(dtype)
    rows, positions = torch.arange(8)[None], torch.arange(90, 98)[None]

    def run(length: int) -> torch.Tensor:
        tiles = Tiles(rows, positions, torch.arange(length)[None])
        return paged_attention(query, keys, values, (tiles,), scale=0.2)

    assert torch.equal(run(KEY_CHUNK), run(8 * KEY_CHUNK))


def test_moving_overlapping_slots() -> None:
    layer = (torch.arange(8.0).view(1, 8, 1), torch.arange(8.0).view(1, 8, 1))
    kv_cache.move([layer], torch.tensor([3, 4]), torch.tensor([2, 3]))
    for tensor in layer:
        assert tensor.flatten().tolist() == [0, 1, 3, 4, 4, 5, 6, 7]
