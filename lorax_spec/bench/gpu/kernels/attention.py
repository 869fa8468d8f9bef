"""Decoding and verifying over a paged cache: keys and values are to be read once."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lorax_spec.bench.gpu.kernels.entry import Entry, Place
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.kernels.ragged import RaggedRows
from lorax_spec.kernels.triton.attention import paged_attention

#: Programs that fill a GPU, and keys that are worth one.
_BUSY, _FEWEST_KEYS = 264, 128
_NODES = 7


def entries(place: Place) -> Iterator[Entry]:
    for batch in (1, place.batch):
        for rows in (1, 1 + _NODES):
            what = f"attention, batch {batch}, {rows} rows each"
            yield _entry(place, what, batch, rows)


def _entry(place: Place, label: str, batch: int, rows: int) -> Entry:
    shape, context = place.shape, place.context
    blocks = -(-(context + rows) // BLOCK_SIZE)
    caches = [
        place.random(shape.kv_heads, batch * blocks * BLOCK_SIZE, shape.head_dim) for _ in "kv"
    ]
    query = place.random(shape.heads, batch * rows, shape.head_dim)
    ragged = _ragged(place, batch, rows, blocks)
    wanted = -(-_BUSY // (batch * shape.kv_heads))
    splits = max(1, min(wanted, context // _FEWEST_KEYS))
    scale = shape.head_dim**-0.5
    out = torch.empty_like(query.transpose(0, 1)).contiguous()
    keys, values = caches

    def run() -> object:
        return paged_attention(query, keys, values, ragged, scale=scale, splits=splits, out=out)

    cached = 2 * batch * (context + rows) * shape.kv_heads * shape.head_dim
    return Entry(label, run, (cached + 2 * query.numel()) * place.itemsize)


def _ragged(place: Place, batch: int, rows: int, blocks: int) -> RaggedRows:
    """One known token each and a chain behind it; blocks lie in a random order."""

    def integers(values: object, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.as_tensor(values, dtype=dtype).to(place.device)

    starts = torch.arange(batch + 1) * rows
    chain = [0] + [(1 << node) - 1 for node in range(1, rows)]
    tables = torch.randperm(batch * blocks).view(batch, blocks)
    return RaggedRows(
        integers(starts),
        integers(starts[:-1] + 1),
        integers([place.context] * batch),
        integers([place.context - 1 + row for row in range(rows)] * batch),
        integers(chain * batch, torch.int64),
        integers(tables),
        rows,
        place.context + rows,
    )
