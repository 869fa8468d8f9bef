"""Writing and moving slots against the plain-torch twins: copies, so equal to the bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.kernels import kv_cache as reference
from lorax_spec.kernels.pointers import addresses
from lorax_spec.kernels.triton.kv_cache import CacheTable, move, write

dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
shapes = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40))


def _caches(
    shape: tuple[int, int, int], slots: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    heads, key_dim, value_dim = shape
    return (
        torch.randn(heads, slots, key_dim).to(device, dtype),
        torch.randn(heads, slots, value_dim).to(device, dtype),
    )


@settings(max_examples=25)
@given(shape=shapes, dtype=dtypes, rows=st.integers(1, 11), data=st.data())
def test_rows_are_written_to_their_slots(
    device: torch.device,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    rows: int,
    data: st.DataObject,
) -> None:
    """And padding rows nowhere; the new rows are views as of a merged projection."""
    slots = 32
    chosen = data.draw(st.permutations(range(slots)))[:rows]
    padding = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    chosen = [-1 if pad else slot for slot, pad in zip(chosen, padding, strict=True)]
    keys, values = _caches(shape, slots, dtype, device)
    heads, key_dim, value_dim = shape
    merged = torch.randn(rows, heads * (key_dim + value_dim)).to(device, dtype)
    key = merged[:, : heads * key_dim].view(rows, heads, key_dim).transpose(0, 1)
    value = merged[:, heads * key_dim :].view(rows, heads, value_dim).transpose(0, 1)
    expected = keys.clone(), values.clone()
    index = torch.tensor(chosen, device=device)
    kept = index >= 0
    for cache, new in zip(expected, (key, value), strict=True):
        reference.write(cache, new[:, kept], index[kept])
    write(keys, values, key, value, index)
    assert torch.equal(keys, expected[0])
    assert torch.equal(values, expected[1])


@st.composite
def paths(draw: st.DrawFn, blocks: int) -> list[list[tuple[int, int]]]:
    """Of each sequence the pairs (source, target) of its accepted path, in order of depth.

    Sequences have blocks of their own, in any order; some accept nothing, and paths may be longer
    than one program reads at once.
    """
    places_of = draw(st.permutations(range(blocks)))
    found: list[list[tuple[int, int]]] = []
    while places_of:
        count = draw(st.integers(1, len(places_of)))
        own, places_of = places_of[:count], places_of[count:]
        size = reference.BLOCK_SIZE
        slots = [block * size + place for block in own for place in range(size)]
        known = draw(st.integers(0, len(slots) - 1))
        nodes = len(slots) - known
        path = sorted(draw(st.sets(st.integers(0, nodes - 1))))
        pairs = [(slots[known + node], slots[known + d]) for d, node in enumerate(path)]
        found.append(pairs)
    return found


@settings(max_examples=25)
@given(
    layers=st.lists(shapes, min_size=1, max_size=2),
    dtype=dtypes,
    sequences=paths(blocks=5),
    padding=st.integers(0, 3),
    inner=st.booleans(),
)
def test_accepted_paths_are_moved(
    device: torch.device,
    layers: list[tuple[int, int, int]],
    dtype: torch.dtype,
    sequences: list[list[tuple[int, int]]],
    padding: int,
    inner: bool,
) -> None:
    """Overlapping moves equal reading all first; layers differ in heads and dims; padding pairs
    move nothing, be they within a sequence or after the last."""
    slots = 5 * reference.BLOCK_SIZE
    caches = [_caches(shape, slots, dtype, device) for shape in layers]
    expected = [(keys.clone(), values.clone()) for keys, values in caches]
    pairs = [pair for path in sequences for pair in path]
    if pairs:
        moved = torch.tensor(pairs, device=device)
        reference.move(expected, moved[:, 0], moved[:, 1])
    starts, padded = [0], []
    for path in sequences:
        padded += path + ([(-1, 3), (3, -1)] if inner else [])
        starts.append(len(padded))
    # Behind the last sequence: -1 as promised, and what nobody may look at.
    padded += [(-1, -1)] * padding + [(0, 1)]
    table = torch.tensor(padded, device=device).T.contiguous()
    move(
        CacheTable.of(caches),
        table[0],
        table[1],
        torch.tensor(starts, dtype=torch.int32, device=device),
    )
    for found, wanted in zip(caches, expected, strict=True):
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])


def test_a_path_longer_than_one_block_of_pairs(device: torch.device) -> None:
    """63 pairs, each one place down: every target is the source of the pair before."""
    keys, values = _caches((2, 8, 8), 64, torch.float32, device)
    expected = [(keys.clone(), values.clone())]
    sources = torch.arange(1, 64, device=device)
    reference.move(expected, sources, sources - 1)
    starts = torch.tensor([0, 63], dtype=torch.int32, device=device)
    move(CacheTable.of([(keys, values)]), sources, sources - 1, starts)
    assert torch.equal(keys, expected[0][0])
    assert torch.equal(values, expected[0][1])


def test_tensors_that_kernels_would_misread_are_refused(device: torch.device) -> None:
    plane = torch.zeros(2, 16, 8, device=device)
    with pytest.raises(ValueError, match="strides"):
        addresses([plane.transpose(0, 1)], device)
    with pytest.raises(ValueError, match="multiple"):
        addresses([plane.flatten()[1:]], device)
    with pytest.raises(ValueError, match="side by side"):
        write(plane, plane, plane[:, :8].mT, plane, torch.arange(8, device=device))
    with pytest.raises(ValueError, match="differ"):
        CacheTable.of([(plane, plane[:, :8].contiguous())])
