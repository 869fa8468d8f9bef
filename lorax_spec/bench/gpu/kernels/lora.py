"""LoRA of a full batch: every adapter's factors are to be read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import partial

import torch

from lorax_spec.bench.gpu.kernels.entry import Entry, Place
from lorax_spec.kernels.lora_rows import Grouping, group_rows, most_tiles
from lorax_spec.kernels.pointers import addresses
from lorax_spec.kernels.triton.lora import LoraTables, add_lora


def entries(place: Place) -> Iterator[Entry]:
    shape = place.shape
    query, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    for adapters in (1, place.batch):
        what = f"LoRA of q, k and v, {place.batch} rows, {adapters} adapters"
        yield _entry(place, what, adapters, shape.hidden_size, (query, kv, kv))
    what = f"LoRA of down, {place.batch} rows, {place.batch} adapters"
    yield _entry(place, what, place.batch, shape.intermediate_size, (shape.hidden_size,))


def _entry(place: Place, label: str, adapters: int, in_features: int, outs: Sequence[int]) -> Entry:
    rank, rows, device = place.rank, place.batch, place.device
    downs = [[place.random(rank, in_features) for _ in range(adapters)] for _ in outs]
    ups = [[place.random(out, rank) for _ in range(adapters)] for out in outs]
    tables = LoraTables(
        torch.stack([addresses(each, device) for each in downs]),
        torch.stack([addresses(each, device) for each in ups]),
        torch.full((len(outs), adapters), rank, dtype=torch.int32, device=device),
        torch.ones(len(outs), adapters, device=device),
        rank,
    )
    slots = [row % adapters for row in range(rows)]
    grouping = on(group_rows(slots, most_tiles(rows, adapters)), device)
    x = place.random(rows, in_features)
    ys = [place.random(rows, out) for out in outs]

    factors = adapters * rank * (len(outs) * in_features + sum(outs))
    touched = factors + x.numel() + 2 * sum(y.numel() for y in ys)
    run = partial(add_lora, ys, x, tables, grouping)
    return Entry(label, run, touched * place.itemsize, keeps=(downs, ups))


def on(grouping: Grouping, device: torch.device) -> Grouping:
    """The same on a device."""
    moved = {one.name: getattr(grouping, one.name).to(device) for one in fields(grouping)}
    return replace(grouping, **moved)
