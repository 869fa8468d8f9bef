"""Heads of several adapters: each one's weights are to be read once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from lorax_spec.bench.gpu.kernels.entry import Entry, Place
from lorax_spec.bench.gpu.kernels.lora import on
from lorax_spec.kernels.lora_rows import group_rows, most_tiles
from lorax_spec.kernels.pointers import addresses
from lorax_spec.kernels.triton.medusa import MedusaTables, put_head_states

_HEADS, _ADAPTERS = 3, 8


def entries(place: Place) -> Iterator[Entry]:
    for adapters in sorted({1, min(_ADAPTERS, place.batch)}):
        size, rows, device = place.shape.hidden_size, place.batch, place.device
        weights = [place.random(_HEADS, 1, size, size, scale=0.02) for _ in range(adapters)]
        biases = [place.random(_HEADS, 1, size) for _ in range(adapters)]
        tables = MedusaTables(
            addresses(weights, device),
            addresses(biases, device),
            torch.full((adapters,), _HEADS, dtype=torch.int32, device=device),
            torch.ones(adapters, dtype=torch.int32, device=device),
            1,
        )
        slots = [row % adapters for row in range(rows)]
        grouping = on(group_rows(slots, most_tiles(rows, adapters)), device)
        hidden, states = place.random(rows, size), place.random(_HEADS, rows, size)

        run = partial(put_head_states, states, hidden, tables, grouping)
        touched = adapters * _HEADS * (size * size + size) + hidden.numel() + states.numel()
        what = f"{_HEADS} Medusa heads, {rows} rows, {adapters} adapters"
        yield Entry(what, run, touched * place.itemsize, keeps=(weights, biases))
