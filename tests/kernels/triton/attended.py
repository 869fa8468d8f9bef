"""Ragged batches of prompts, drafts and nothing, and what attention over them must be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.kernels.ragged import RaggedRows
from lorax_spec.kernels.ragged_attention import ragged_attention
from lorax_spec.kernels.triton.attention import paged_attention

PADDING = 2


@dataclass(frozen=True)
class Run:
    """A sequence of a step: ``past`` keys, ``new`` known tokens, a tree as its nodes' parents."""

    past: int
    new: int
    parents: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        return self.new + len(self.parents)

    @property
    def keys(self) -> int:
        return self.past + self.rows


def lay(runs: list[Run], device: torch.device, generator: torch.Generator) -> RaggedRows:
    """Blocks in any order, two rows of padding; bounds looser than the contents."""
    starts = [0]
    drafts: list[int] = []
    positions: list[int] = []
    ancestors: list[int] = []
    for run in runs:
        positions += range(run.past, run.past + run.new)
        ancestors += [0] * run.new
        drafts.append(starts[-1] + run.new)
        depths: list[int] = []
        masks: list[int] = []
        for node, parent in enumerate(run.parents):
            depths.append(0 if parent < 0 else depths[parent] + 1)
            masks.append((0 if parent < 0 else masks[parent]) | 1 << node)
        positions += [run.past + run.new + depth for depth in depths]
        ancestors += [mask - (1 << 64 if mask >> 63 else 0) for mask in masks]
        starts.append(starts[-1] + run.rows)
    positions += [10_000] * PADDING
    ancestors += [-1] * PADDING

    def int32(numbers: list[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=device)

    blocks = max(run.keys for run in runs) // BLOCK_SIZE + 1
    order = torch.randperm(len(runs) * blocks, generator=generator, dtype=torch.int64)
    return RaggedRows(
        row_starts=int32(starts),
        draft_starts=int32(drafts),
        known=int32([run.past + run.new for run in runs]),
        positions=int32(positions),
        ancestors=torch.tensor(ancestors, dtype=torch.int64, device=device),
        block_tables=order.view(len(runs), blocks).int().to(device),
        longest_query=max(run.rows for run in runs) + 1,
        longest_context=max(run.keys for run in runs) + 1,
    )


@dataclass(frozen=True)
class Heads:
    """Kinds of heads: ``group`` query heads for each of ``kv_heads``."""

    kv_heads: int
    group: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True)
class Inputs:
    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor


def fill(
    runs: list[Run],
    rows: RaggedRows,
    heads: Heads,
    dtype: torch.dtype,
    generator: torch.Generator,
) -> Inputs:
    """Random contents; whatever no row may see is NaN.  The query is a view with gaps."""

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    query = random(len(rows.positions), heads.kv_heads * heads.group, heads.key_dim + 16)
    query[len(query) - PADDING :] = torch.nan
    slots = rows.block_tables.numel() * BLOCK_SIZE
    keys = torch.full((heads.kv_heads, slots, heads.key_dim), torch.nan, dtype=dtype)
    values = torch.full((heads.kv_heads, slots, heads.value_dim), torch.nan, dtype=dtype)
    for run, table in zip(runs, rows.block_tables.cpu().long(), strict=True):
        key = torch.arange(run.keys)
        own = table[key // BLOCK_SIZE] * BLOCK_SIZE + key % BLOCK_SIZE
        keys[:, own] = random(heads.kv_heads, run.keys, heads.key_dim)
        values[:, own] = random(heads.kv_heads, run.keys, heads.value_dim)
    device = rows.positions.device
    return Inputs(
        query.to(device)[..., : heads.key_dim].transpose(0, 1), keys.to(device), values.to(device)
    )


def exact(inputs: Inputs, rows: RaggedRows, sinks: torch.Tensor | None, **how: Any) -> torch.Tensor:
    """By the reference in float64, rows of sequences only."""
    query, keys, values = inputs.query.double(), inputs.keys.double(), inputs.values.double()
    sinks = None if sinks is None else sinks.double()
    return ragged_attention(query, keys, values, rows, sinks=sinks, **how)[:-PADDING]


#: Of what the sums of up to a few hundred products may be off, values being around one.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def check(
    runs: list[Run],
    heads: Heads,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float32,
    with_sinks: bool = False,
    splits: int = 1,
    chunk: int | None = None,
    window: int | None = None,
    softcap: float | None = None,
    seed: int = 0,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = lay(runs, device, generator)
    inputs = fill(runs, rows, heads, dtype, generator)
    count = heads.kv_heads * heads.group
    sinks = torch.randn(count, generator=generator).to(device, dtype) if with_sinks else None
    how: dict[str, Any] = {
        "scale": 1.5 / math.sqrt(heads.key_dim),
        "window": window,
        "softcap": softcap,
    }
    out = torch.full((len(rows.positions), count, heads.value_dim), 7.0).to(device, dtype)
    found = paged_attention(
        inputs.query, inputs.keys, inputs.values, rows,
        sinks=sinks, splits=splits, chunk=chunk, out=out, **how,
    )  # fmt: skip
    assert found is out
    torch.testing.assert_close(
        out[:-PADDING].double(),
        exact(inputs, rows, sinks, **how),
        atol=TOLERANCE[dtype],
        rtol=TOLERANCE[dtype],
    )
    assert (out[-PADDING:] == 7.0).all()  # rows that only pad are not written


parents = st.integers(0, 12).flatmap(
    lambda nodes: st.tuples(*(st.integers(-1, node - 1) for node in range(nodes)))
)
runs = st.lists(
    st.builds(Run, st.integers(0, 150), st.integers(1, 20), parents) | st.just(Run(0, 0)),
    min_size=1,
    max_size=3,
).filter(lambda drawn: any(run.rows for run in drawn))
