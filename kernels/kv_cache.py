"""Writing and moving rows of a paged KV cache.

A layer's keys and values are two tensors ``[kv_heads, slots, head_dim]``; a slot holds one token,
and ``BLOCK_SIZE`` neighbouring slots form a block.  Heads come first so that gathering a
sequence's slots gives the contiguous ``[kv_heads, keys, head_dim]`` a batched product wants.
"""

from __future__ import annotations

import torch

BLOCK_SIZE = 16


def allocate(
    kv_heads: int,
    blocks: int,
    key_dim: int,
    value_dim: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer's zeroed (keys, values); zeros, since masked garbage must stay finite."""
    slots = blocks * BLOCK_SIZE
    return (
        torch.zeros(kv_heads, slots, key_dim, dtype=dtype, device=device),
        torch.zeros(kv_heads, slots, value_dim, dtype=dtype, device=device),
    )


def write(cache: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor) -> None:
    """``cache[:, slots[i]] = rows[:, i]``; rows [kv_heads, n, head_dim], slots int64 [n]."""
    cache.index_copy_(1, slots, rows)


def move(
    layers: list[tuple[torch.Tensor, torch.Tensor]], source: torch.Tensor, target: torch.Tensor
) -> None:
    """Copy slots ``source`` to ``target`` in every layer; the two may overlap.

    This is how the accepted path of a draft tree becomes the committed context.
    """
    for keys, values in layers:
        keys.index_copy_(1, target, keys.index_select(1, source))
        values.index_copy_(1, target, values.index_select(1, source))
