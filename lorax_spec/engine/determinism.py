"""Finding out how many rows a product must have for its bits not to depend on their number.

A matrix library picks its kernel by shape: a product over one row may sum in another order than
one over eight.  From some row count on (the row floor) the CPU libraries tried so far give a row
the same bits whatever stands beside it.  The check runs the linear layers of the very model, and
attention at its shapes, on the very machine, so nothing is taken on trust.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from lorax_spec.adapters.linears import is_linear
from lorax_spec.engine.lanes import EXACT_ROWS
from lorax_spec.kernels.attention import KEY_CHUNK, Tiles, paged_attention
from lorax_spec.kernels.linear import is_plain
from lorax_spec.kernels.lora import add_lora, put_linear

#: Row counts tried as a floor, and the counts a floor must then hold for.
FLOORS = (1, 2, 4, 8, 16)
COUNTS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 32, 64, 100, 256, 512)
#: Larger products than this many multiplications are left out: the check must not take minutes.
LARGEST_CHECK = 2**28
#: How many runs of each count are compared, at most.
WINDOWS = 48
#: Tiles attention is tried with: (tiles, query rows in each, chunks of keys).
TILINGS = ((1, 1, 1), (1, 2, 1), (1, 8, 2), (3, 1, 1), (5, 4, 3), (20, 8, 1), (2, 32, 4))

#: The most that invariance may cost one decoding sequence before it is no default.
AFFORDABLE = 1.10
#: Of an ordinary decoder block; tells how often attention runs beside the linear layers.
_LINEARS_PER_BLOCK = 7


def row_floor(model: nn.Module, heads: int, kv_heads: int, head_dim: int) -> int | None:
    """The smallest of FLOORS from which on every linear layer and attention are invariant; None if
    there is none, or if the model has products of other kinds, which are not tried here."""
    if not _all_linear(model):
        return None
    layers = list(_distinct_linears(model))
    like = _number(model)
    for floor in FLOORS:
        if all(_linear_invariant(layer, floor, like) for layer in layers):
            invariant = _attention_invariant(heads, kv_heads, head_dim, like)
            return floor if invariant and _lora_invariant(like) else None
    return None


@torch.inference_mode()
def cost_of_invariance(
    model: nn.Module, floor: int, heads: int, kv_heads: int, head_dim: int
) -> float:
    """Time of a decoding row's products and attention, invariant by not.

    All linear layers are run in turn, so that weights come from where they will come from.
    """
    layers: list[Any] = [module for module in model.modules() if is_linear(module)]
    blocks = max(1, len(layers) // _LINEARS_PER_BLOCK)
    like = _number(model)
    attend = _decoding_attention(heads, kv_heads, head_dim, like)

    def once(rows: int, exact: bool) -> Callable[[], None]:
        inputs = [_random_rows(layer, rows, like) for layer in layers]

        def run() -> None:
            for layer, x in zip(layers, inputs, strict=True):
                layer(x)
            for _ in range(blocks):
                attend(exact)

        return run

    return _fastest(once(floor, True)) / _fastest(once(1, False))


def _fastest(once: Callable[[], None], repeats: int = 15) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        once()
        times.append(time.perf_counter() - started)
    return min(times)


@torch.inference_mode()
def _linear_invariant(layer: Any, floor: int, like: torch.Tensor) -> bool:
    """Rows computed so many at a time equal those computed in the largest batch.

    Many windows of each count: in 16 bit another order of summation shows in few values only.
    """
    size = layer.in_features * layer.out_features
    counts = [c for c in COUNTS if c <= max(32, LARGEST_CHECK // size)]
    rows = _random_rows(layer, max(counts[-1], floor) + 1, like)
    whole = layer(rows)
    for count in counts:
        padded = max(count, floor)
        for start in range(0, min(len(rows) - padded, WINDOWS * count), count):
            window = layer(rows[start : start + padded])
            if not torch.equal(window, whole[start : start + padded]):
                return False
    return True


@torch.inference_mode()
def _attention_invariant(heads: int, kv_heads: int, head_dim: int, like: torch.Tensor) -> bool:
    """One row's attention is the same in every tiling it may meet."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(like)

    slots, width_floor = 4 * KEY_CHUNK, -(-EXACT_ROWS * kv_heads // heads)
    keys, values = draw(kv_heads, slots, head_dim), draw(kv_heads, slots, head_dim)
    query = draw(heads, 1, head_dim).expand(heads, 700, head_dim).contiguous()
    query[:, 1:] += draw(heads, 699, head_dim)
    results = []
    for tiles, width, chunks in TILINGS:
        width = max(width, width_floor)
        rows = torch.arange(tiles * width, device=like.device).view(tiles, width)
        layout = Tiles(
            rows,
            torch.full_like(rows, KEY_CHUNK - 9),
            torch.arange(chunks * KEY_CHUNK, device=like.device).expand(tiles, -1).contiguous(),
        )
        out = paged_attention(
            query[:, : rows.numel()], keys, values, (layout,), scale=head_dim**-0.5
        )
        results.append(out[0])
    return all(torch.equal(results[0], other) for other in results[1:])


@torch.inference_mode()
def _lora_invariant(like: torch.Tensor) -> bool:
    """Rows get the same update wherever they are in a tile, and however many tiles there are."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(like)

    size, count = 256, 6 * EXACT_ROWS
    x = draw(count, size)
    orders = [torch.randperm(count, generator=generator), *torch.arange(count).split(EXACT_ROWS)]
    for rank in (1, 8, 16, 64):
        a, b = draw(1, rank, size) * size**-0.5, draw(1, size, rank)

        def update(
            y: torch.Tensor, rows: torch.Tensor, kept: torch.Tensor, a: Any = a, b: Any = b
        ) -> None:
            tiles = len(rows)
            scale = torch.ones(tiles, 1, 1).to(like)
            add_lora(y, x, rows, kept, a.expand(tiles, -1, -1), b.expand(tiles, -1, -1), scale)

        if not _same_in_any_order(update, torch.zeros_like(x), orders):
            return False
    weight = draw(4 * size, size)

    def put(y: torch.Tensor, rows: torch.Tensor, kept: torch.Tensor) -> None:
        put_linear(y, x, rows, kept, [weight] * len(rows), None)

    return _same_in_any_order(put, torch.zeros(count, 4 * size).to(like), orders)


def _same_in_any_order(
    update: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None],
    zeros: torch.Tensor,
    orders: list[torch.Tensor],
) -> bool:
    """The first of ``orders``, of all rows, gives what all the others, each of some, give."""
    together, *apart = [zeros.clone() for _ in orders]
    for y, order in zip((together, *apart), orders, strict=True):
        kept = torch.arange(order.numel(), device=zeros.device)
        update(y, order.to(zeros.device).view(-1, EXACT_ROWS), kept)
    return torch.equal(together, torch.stack(apart).sum(0))


def _all_linear(model: nn.Module) -> bool:
    """Whether all matrices are linear layers' or embeddings'.  Experts' are not: how many rows one
    gets depends on the batch."""
    modules = (m for m in model.modules() if is_linear(m) or isinstance(m, nn.Embedding))
    known = {id(p) for m in modules for p in m.parameters(recurse=False)}
    return all(p.dim() < 2 or id(p) in known for p in model.parameters())


def _number(model: nn.Module) -> torch.Tensor:
    """Of the dtype and on the device of what goes between layers; weights may be quantised."""
    return next(p.detach() for p in model.parameters() if is_plain(p))


def _decoding_attention(
    heads: int, kv_heads: int, head_dim: int, like: torch.Tensor
) -> Callable[[bool], torch.Tensor]:
    """One row over a context of two key chunks, exactly or not."""
    keys = torch.zeros(kv_heads, 2 * KEY_CHUNK, head_dim).to(like)
    query = torch.zeros(heads, 1, head_dim).to(like)
    zero = torch.zeros(1, 1, dtype=torch.int64, device=like.device)
    slots = torch.arange(2 * KEY_CHUNK, device=like.device)[None]
    tiles = Tiles(zero, zero + 2 * KEY_CHUNK - 1, slots, in_order=True)

    def attend(exact: bool) -> torch.Tensor:
        return paged_attention(query, keys, keys, (tiles,), scale=1.0, exact=exact)

    return attend


def _random_rows(layer: Any, rows: int, like: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, layer.in_features, generator=generator)
    return x.to(like.device, like.dtype)


def _distinct_linears(model: nn.Module) -> Iterator[nn.Module]:
    """One of every kind and size."""
    seen: set[tuple[object, ...]] = set()
    for module in model.modules():
        if is_linear(module):
            kind = (type(module), type(getattr(module, "weight", None)))
            key = (*kind, module.out_features, module.in_features)
            if key not in seen:
                seen.add(key)
                yield module
