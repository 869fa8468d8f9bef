"""Norm, activation, rotation and cache writes, on as many rows as a prompt has."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

from lorax_spec.bench.gpu.kernels.entry import Entry, Place
from lorax_spec.kernels.triton.activation import silu_product
from lorax_spec.kernels.triton.kv_cache import write
from lorax_spec.kernels.triton.norm import add_rms_norm
from lorax_spec.kernels.triton.rope import rotate_and_write

_EPSILON = 1e-5


def entries(place: Place) -> Iterator[Entry]:
    shape, rows, size = place.shape, place.long, place.itemsize
    x, residual = place.random(rows, shape.hidden_size), place.random(rows, shape.hidden_size)
    weight = place.random(shape.hidden_size)
    norm = partial(add_rms_norm, x, residual, weight, _EPSILON)
    yield Entry(f"add and norm, {rows} rows", norm, 4 * x.numel() * size)

    gate, up = (place.random(rows, shape.intermediate_size) for _ in range(2))
    yield Entry(
        f"SiLU product, {rows} rows",
        partial(silu_product, gate, up),
        3 * gate.numel() * size,
        rival=lambda: F.silu(gate) * up,
    )

    query = place.random(rows, shape.heads, shape.head_dim)
    key, value = (place.random(rows, shape.kv_heads, shape.head_dim) for _ in range(2))
    cos, sin = (place.random(rows, shape.head_dim) for _ in range(2))
    keys, values = (place.random(shape.kv_heads, rows, shape.head_dim) for _ in range(2))
    slots = torch.randperm(rows).to(place.device)
    rotate = partial(rotate_and_write, query, key, value, cos, sin, keys, values, slots)
    moved = 2 * (query.numel() + key.numel() + value.numel()) + cos.numel() + sin.numel()
    yield Entry(f"rotate and write, {rows} rows", rotate, moved * size)

    put = partial(write, keys, values, key.transpose(0, 1), value.transpose(0, 1), slots)
    yield Entry(f"cache write, {rows} rows", put, 2 * (key.numel() + value.numel()) * size)
