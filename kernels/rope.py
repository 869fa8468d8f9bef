"""Rotary position embeddings and the write into the cache that follows: the plain-torch reference.

Semantics (Su et al. 2021, arXiv 2104.09864; pairs are numbers half a head apart), for each head of
a row, ``x1`` and ``x2`` being its halves::

    rotated = round(x * cos) + round(concat(-x2, x1) * sin)

Products and sum are each rounded to the dtype of ``x``, as transformers' are.
"""

from __future__ import annotations

import torch


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """For ``x`` [rows, heads, head_dim], ``cos`` and ``sin`` [rows, head_dim]."""
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat((-second, first), -1) * sin[:, None]


def rotate_and_write(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
) -> torch.Tensor:
    """Rotated query; rotated keys and values go into the cache.

    Args:
        query: [rows, heads, head_dim].
        key, value: [rows, kv_heads, head_dim or value_dim].
        cos, sin: [rows, head_dim].
        keys, values: the cache, [kv_heads, slots, head_dim or value_dim].
        slots: int64 [rows], no two alike; rows with a negative one are not written.
    """
    written = slots >= 0
    keys[:, slots[written]] = rotate(key, cos, sin)[written].transpose(0, 1)
    values[:, slots[written]] = value[written].transpose(0, 1)
    return rotate(query, cos, sin)
