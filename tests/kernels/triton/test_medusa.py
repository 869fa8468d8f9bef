"""Medusa heads by slots against float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.kernels.lora_rows import group_rows, most_tiles
from lorax_spec.kernels.medusa_rows import put_head_states as plain_head_states
from lorax_spec.kernels.pointers import addresses
from lorax_spec.kernels.triton.medusa import MedusaTables, put_head_states
from tests.kernels.triton.test_lora import dtypes, on

#: Interpreted kernels take milliseconds for each of their programs.
pytestmark = pytest.mark.slow

#: Steeper than SiLU ever is.
SLOPE = 1.1


@dataclass(frozen=True)
class Heads:
    """Of every slot; ``tables`` are those of the kernel."""

    weights: list[torch.Tensor | None]
    biases: list[torch.Tensor | None]
    tables: MedusaTables


def _heads(
    shapes: Sequence[tuple[int, int] | None],
    size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Heads:
    """Random ones of these numbers of heads and layers; None where a slot is empty."""
    weights = [torch.randn(*s, size, size) / size**0.5 if s else None for s in shapes]
    biases = [torch.randn(*s, size) if s else None for s in shapes]
    placed = [[None if t is None else t.to(device, dtype) for t in ts] for ts in (weights, biases)]
    counts = torch.tensor([s or (0, 0) for s in shapes], dtype=torch.int32, device=device)
    head_counts, layer_counts = counts.T.contiguous()
    most = max(s[1] if s else 0 for s in shapes)
    tables = MedusaTables(
        addresses(placed[0], device), addresses(placed[1], device), head_counts, layer_counts, most
    )
    return Heads(placed[0], placed[1], tables)


def _close(
    found: torch.Tensor, before: torch.Tensor, hidden: torch.Tensor, slots: list[int], own: Heads
) -> None:
    """Within a rounding per layer and float32's error of sums, both carried on through the layers
    by at most the sum of the weights; and the rest unchanged."""
    eps, size = torch.finfo(found.dtype).eps, hidden.shape[1]
    written = torch.zeros(found.shape[:2], dtype=torch.bool)
    for row, slot in enumerate(slots):
        if slot < 0 or own.weights[slot] is None:
            continue
        for head, (weight, bias) in enumerate(
            zip(own.weights[slot].double(), own.biases[slot].double(), strict=True)
        ):
            written[head, row] = True
            h = hidden[row].double()
            bound = torch.zeros_like(h)
            for w, b in zip(weight, bias, strict=True):
                spread = w.abs() @ h.abs() + b.abs()
                z = w @ h + b
                bound += SLOPE * (w.abs() @ bound + (size + 8) * 2.0**-23 * spread)
                h = h + F.silu(z)
                bound += eps * (h.abs() + bound)
            assert ((found[head, row].double() - h).abs() <= bound + 1e-30).all()
    assert torch.equal(found[~written], before[~written])


def _slots_and_shapes(
    data: st.DataObject, layers: int
) -> tuple[list[int], list[tuple[int, int] | None]]:
    shape = st.none() | st.tuples(st.integers(1, 4), st.integers(0, layers))
    shapes = data.draw(st.lists(shape, min_size=1, max_size=4))
    slots = data.draw(st.lists(st.integers(-1, len(shapes) - 1), min_size=1, max_size=20))
    return slots, shapes


@settings(max_examples=20)
@given(
    dtype=dtypes,
    size=st.sampled_from([8, 31, 40]),
    layers=st.integers(0, 3),
    spare=st.integers(0, 2),
    data=st.data(),
)
def test_states_equal_their_definition(
    device: torch.device,
    dtype: torch.dtype,
    size: int,
    layers: int,
    spare: int,
    data: st.DataObject,
) -> None:
    """For adapters of unlike heads and layers; other rows and heads keep their bits."""
    slots, shapes = _slots_and_shapes(data, layers)
    own = _heads(shapes, size, dtype, device)
    rows = len(slots)
    hidden = torch.randn(rows, size + 2).to(device, dtype)[:, :size]
    states = torch.randn(max(1, *(s[0] if s else 0 for s in shapes)), rows, size).to(device, dtype)
    found = states.clone()
    grouping = group_rows(slots, most_tiles(rows, len(shapes)) + spare)
    put_head_states(found, hidden, own.tables, on(grouping, device))
    _close(found, states, hidden, slots, own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_several_blocks_of_features(device: torch.device, dtype: torch.dtype) -> None:
    own = _heads([(2, 1), (1, 2)], 260, dtype, device)
    slots = [0, 1, -1]
    hidden = torch.randn(3, 260).to(device, dtype)
    states = torch.randn(2, 3, 260).to(device, dtype)
    found = states.clone()
    put_head_states(found, hidden, own.tables, on(group_rows(slots, 2), device))
    _close(found, states, hidden, slots, own)


@settings(max_examples=8)
@given(dtype=dtypes, size=st.sampled_from([40, 130]), data=st.data())
def test_a_rows_bits_do_not_depend_on_the_rows_beside(
    device: torch.device, dtype: torch.dtype, size: int, data: st.DataObject
) -> None:
    """Be these NaN; nor on how many layers others' heads have."""
    own = _heads([(2, 1), (1, 2), (1, 1)], size, dtype, device)
    slots = data.draw(st.lists(st.integers(-1, 2), min_size=2, max_size=40))
    hidden = torch.randn(len(slots), size).to(device, dtype)
    row = data.draw(st.integers(0, len(slots) - 1))
    hidden[row - 1] = torch.nan
    crowd = torch.zeros(2, len(slots), size, dtype=dtype, device=device)
    put_head_states(
        crowd, hidden, own.tables, on(group_rows(slots, most_tiles(len(slots), 3)), device)
    )
    alone = torch.zeros(2, 1, size, dtype=dtype, device=device)
    tables = own.tables
    if slots[row] != 1:
        tables = MedusaTables(
            tables.weights, tables.biases, tables.head_counts, tables.layer_counts, 1
        )
    put_head_states(alone, hidden[row : row + 1], tables, on(group_rows([slots[row]], 1), device))
    assert torch.equal(alone[:, 0], crowd[:, row])


@settings(max_examples=15)
@given(size=st.integers(1, 20), data=st.data())
def test_the_plain_twin_equals_its_definition(size: int, data: st.DataObject) -> None:
    slots, shapes = _slots_and_shapes(data, 3)
    own = _heads(shapes, size, torch.float32, torch.device("cpu"))
    hidden = torch.randn(len(slots), size)
    states = torch.randn(4, len(slots), size)
    found = states.clone()
    plain_head_states(found, hidden, torch.tensor(slots), own.weights, own.biases)
    _close(found, states, hidden, slots, own)


def test_features_apart_are_refused(device: torch.device) -> None:
    own = _heads([(1, 1)], 8, torch.float32, device)
    hidden = torch.randn(8, 8, device=device)
    with pytest.raises(ValueError, match="side by side"):
        put_head_states(hidden[None], hidden.T, own.tables, on(group_rows([0] * 8, 1), device))
