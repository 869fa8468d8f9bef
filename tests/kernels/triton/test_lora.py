"""LoRA by slots against float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.kernels.lora_rows import (
    TILE_ROWS,
    Grouping,
    add_lora_rows,
    group_rows,
    most_tiles,
)
from lorax_spec.kernels.pointers import addresses
from lorax_spec.kernels.triton.lora import LoraTables, add_lora

#: Interpreted kernels take milliseconds for each of their programs.
pytestmark = pytest.mark.slow

dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


def on(grouping: Grouping, device: torch.device) -> Grouping:
    return Grouping(*(getattr(grouping, field.name).to(device) for field in fields(grouping)))


@dataclass(frozen=True)
class Adapters:
    """Of modules and in them of slots."""

    a: list[list[torch.Tensor | None]]
    b: list[list[torch.Tensor | None]]
    scales: list[list[float]]
    tables: LoraTables


def _adapters(
    ranks: Sequence[Sequence[int]],
    in_features: int,
    outs: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
) -> Adapters:
    """Random ones of these ranks, by module and slot; 0 where a slot leaves a module alone."""
    a: list[list[torch.Tensor | None]] = []
    b: list[list[torch.Tensor | None]] = []
    for own, out in zip(ranks, outs, strict=True):
        a.append([torch.randn(r, in_features).to(device, dtype) if r else None for r in own])
        b.append([torch.randn(out, r).to(device, dtype) if r else None for r in own])
    scales = torch.rand(len(outs), len(ranks[0])) * 2
    tables = LoraTables(
        torch.stack([addresses(row, device) for row in a]),
        torch.stack([addresses(row, device) for row in b]),
        # Of an absent one there may stand anything.
        torch.tensor([[r or 7 for r in own] for own in ranks], dtype=torch.int32, device=device),
        scales.to(device),
        max(1, *(r for own in ranks for r in own)),
    )
    return Adapters(a, b, scales.tolist(), tables)


def _close(
    found: torch.Tensor, y: torch.Tensor, x: torch.Tensor, slots: list[int], own: Adapters, m: int
) -> None:
    """Within one rounding of the result and float32's error of a sum in whichever order."""
    expected, size = y.double(), torch.zeros_like(y, dtype=torch.float64)
    terms = x.shape[1]
    for row, slot in enumerate(slots):
        if slot < 0:
            continue
        a, b, scale = own.a[m][slot], own.b[m][slot], own.scales[m][slot]
        if a is not None and b is not None:
            expected[row] += scale * (b.double() @ (a.double() @ x[row].double()))
            size[row] = scale * (b.double().abs() @ (a.double().abs() @ x[row].double().abs()))
            terms = max(terms, x.shape[1] + a.shape[0])
    error = (found.double() - expected).abs()
    bound = torch.finfo(y.dtype).eps * expected.abs() + terms * 2.0**-23 * size + 1e-30
    assert (error <= bound).all(), (error / bound).max()
    idle = size.sum(1) == 0
    assert torch.equal(found[idle], y[idle])


@settings(max_examples=50)
@given(slots=st.lists(st.integers(-1, 5), max_size=90), spare=st.integers(0, 3))
def test_tiles_hold_every_adapted_row_once(slots: list[int], spare: int) -> None:
    tiles = most_tiles(len(slots), 6) + spare
    grouping = group_rows(slots, tiles)
    found: dict[int, int] = {}
    order = grouping.order.tolist()
    assert len(order) == len(slots)
    assert len(grouping.tile_slots) == tiles
    for slot, start, count in zip(
        grouping.tile_slots.tolist(),
        grouping.tile_starts.tolist(),
        grouping.tile_counts.tolist(),
        strict=True,
    ):
        assert count <= TILE_ROWS
        assert (slot < 0) == (count == 0)
        for row in order[start : start + count]:
            assert row not in found
            found[row] = slot
    assert found == {row: slot for row, slot in enumerate(slots) if slot >= 0}


def test_the_worst_case_of_tiles_is_met() -> None:
    assert most_tiles(0, 4) == 0
    assert most_tiles(3, 8) == 3
    for rows in range(4, 60):
        # Three slots of one row, the others in the last.
        group_rows([0, 1, 2, *[3] * (rows - 3)], most_tiles(rows, 4))
    with pytest.raises(ValueError, match="4 tiles of rows, room for 3"):
        group_rows([0, 1, 2, *[3] * 14], most_tiles(17, 4) - 1)


@settings(max_examples=20)
@given(
    dtype=dtypes,
    in_features=st.sampled_from([8, 40, 129, 300]),
    outs=st.lists(st.integers(1, 150), min_size=1, max_size=3),
    slot_count=st.integers(1, 4),
    spare=st.integers(0, 2),
    apart=st.booleans(),
    data=st.data(),
)
def test_each_row_gets_its_own_adapters_update(
    device: torch.device,
    dtype: torch.dtype,
    in_features: int,
    outs: list[int],
    slot_count: int,
    spare: int,
    apart: bool,
    data: st.DataObject,
) -> None:
    """In all modules that it changes; other rows and columns keep their bits.  Modules may have
    tensors of their own or columns of one."""
    rank = st.sampled_from([0, 1, 4, 8, 12, 16, 33, 64])
    several = st.lists(rank, min_size=slot_count, max_size=slot_count)
    ranks = data.draw(st.lists(several, min_size=len(outs), max_size=len(outs)))
    slots = data.draw(st.lists(st.integers(-1, slot_count - 1), min_size=1, max_size=20))
    own = _adapters(ranks, in_features, outs, dtype, device)
    rows = len(slots)
    x = torch.randn(rows, in_features + 3).to(device, dtype)[:, :in_features]
    merged = torch.randn(rows, sum(outs) + 1).to(device, dtype)
    before = merged.clone()
    ys = merged[:, :-1].split(outs, dim=1)
    if apart:
        ys = tuple(y.contiguous() for y in ys)
    grouping = on(group_rows(slots, most_tiles(rows, slot_count) + spare), device)
    add_lora(ys, x, own.tables, grouping)
    for module, y in enumerate(before[:, :-1].split(outs, dim=1)):
        _close(ys[module], y, x, slots, own, module)
    assert torch.equal(merged[:, -1], before[:, -1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_inputs_of_several_chunks_and_the_highest_rank(
    device: torch.device, dtype: torch.dtype
) -> None:
    own = _adapters([[256, 3]], 2100, [130], dtype, device)
    slots = [0, 1, -1, *[1] * 17]
    x = torch.randn(len(slots), 2100).to(device, dtype)
    y = torch.randn(len(slots), 130).to(device, dtype)
    found = y.clone()
    add_lora([found], x, own.tables, on(group_rows(slots, most_tiles(len(slots), 2)), device))
    _close(found, y, x, slots, own, 0)


@settings(max_examples=10)
@given(
    dtype=dtypes,
    slots=st.lists(st.integers(-1, 2), min_size=2, max_size=40),
    in_features=st.sampled_from([64, 200, 1100]),
    data=st.data(),
)
def test_a_rows_bits_do_not_depend_on_the_rows_beside(
    device: torch.device,
    dtype: torch.dtype,
    slots: list[int],
    in_features: int,
    data: st.DataObject,
) -> None:
    """Be these NaN; nor on the ranks of other slots, which a graph has more room for."""
    own = _adapters([[16, 5, 40]], in_features, [140], dtype, device)
    x = torch.randn(len(slots), in_features).to(device, dtype)
    y = torch.randn(len(slots), 140).to(device, dtype)
    row = data.draw(st.integers(0, len(slots) - 1))
    x[row - 1] = torch.nan
    crowd = y.clone()
    add_lora([crowd], x, own.tables, on(group_rows(slots, most_tiles(len(slots), 3)), device))
    alone = y[row : row + 1].clone()
    roomy = LoraTables(own.tables.a, own.tables.b, own.tables.ranks, own.tables.scales, 100)
    add_lora([alone], x[row : row + 1], roomy, on(group_rows(slots[row : row + 1], 1), device))
    assert torch.equal(alone[0], crowd[row])


@settings(max_examples=20)
@given(
    slots=st.lists(st.integers(-1, 3), min_size=1, max_size=12),
    ranks=st.lists(st.integers(0, 9), min_size=4, max_size=4),
)
def test_the_plain_twin_equals_its_definition(slots: list[int], ranks: list[int]) -> None:
    own = _adapters([ranks], 24, [17], torch.float32, torch.device("cpu"))
    x, y = torch.randn(len(slots), 24), torch.randn(len(slots), 17)
    found = y.clone()
    add_lora_rows(found, x, torch.tensor(slots), own.a[0], own.b[0], own.scales[0])
    _close(found, y, x, slots, own, 0)


def test_features_apart_are_refused(device: torch.device) -> None:
    own = _adapters([[4]], 8, [8], torch.float32, device)
    x = torch.randn(8, 8, device=device)
    with pytest.raises(ValueError, match="side by side"):
        add_lora([x.clone()], x.T, own.tables, on(group_rows([0] * 8, 1), device))
