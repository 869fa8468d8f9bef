"""What adapters do to rows of several adapters at once: the plain-torch reference.

Semantics, for every row ``i`` of a tile of adapter ``a``, in this order::

    y[i] = x[i] @ weight[a].T + base_bias         where it has a weight of its own
    y[i] = factor[a] * y[i] + bias[a]             where it has these
    y[i] += scale[a] * (x[i] @ A[a].T) @ B[a].T   where it has a low-rank update

Of embeddings x[i] is a token's one-hot vector.  Rows of the base model appear in no tile and cost
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

#: Ranks are filled up with zeros to a multiple of this: products of one column or three go through
#: other kernels than those of eight, and some of these depend on the rows beside.
RANK_STEP = 8


def add_lora(
    y: torch.Tensor,
    x: torch.Tensor,
    rows: torch.Tensor,
    kept: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: torch.Tensor,
) -> None:
    """Add the updates of adapters of one rank to ``y`` in place.

    Args:
        y: [batch rows, out_features].
        x: [batch rows, in_features].
        rows: int64 [tiles, width], batch rows of each tile, padded with repeats.
        kept: int64 [n], indices into the flattened tiles that are not padding.
        a: [tiles, rank, in_features]; b: [tiles, out_features, rank]; scale: [tiles, 1, 1].
    """
    tiles, width = rows.shape
    flat = rows.flatten()
    if missing := -a.shape[1] % RANK_STEP:
        a, b = F.pad(a, (0, 0, 0, missing)), F.pad(b, (0, missing))
    inputs = x.index_select(0, flat).view(tiles, width, -1)
    low = torch.bmm(inputs, a.transpose(1, 2)) * scale
    update = torch.bmm(low, b.transpose(1, 2)).flatten(0, 1)
    y.index_add_(0, flat.index_select(0, kept), update.index_select(0, kept))


def add_embedding_lora(
    y: torch.Tensor,
    ids: torch.Tensor,
    rows: torch.Tensor,
    kept: torch.Tensor,
    a: Sequence[torch.Tensor],
    b: torch.Tensor,
    scale: torch.Tensor,
) -> None:
    """Add the updates of input embeddings to ``y`` [batch rows, hidden] in place.

    Args:
        ids: int64 [batch rows].
        a: of every tile [rank, vocabulary]; b: [tiles, hidden, rank].
        rows, kept, scale: as in ``add_lora``.
    """
    flat = rows.flatten()
    low = torch.stack([own.index_select(1, ids[tile]).T for own, tile in zip(a, rows, strict=True)])
    if missing := -b.shape[2] % RANK_STEP:
        low, b = F.pad(low, (0, missing)), F.pad(b, (0, missing))
    update = torch.bmm(low * scale, b.transpose(1, 2)).flatten(0, 1)
    y.index_add_(0, flat.index_select(0, kept), update.index_select(0, kept))


def put_linear(
    y: torch.Tensor,
    x: torch.Tensor,
    rows: torch.Tensor,
    kept: torch.Tensor,
    weights: Sequence[torch.Tensor],
    bias: torch.Tensor | None,
) -> None:
    """Put the products with other weights in the place of ``y``'s rows.

    Tile by tile, so that every product has the same number of rows.

    Args:
        y, x, rows, kept: as in ``add_lora``.
        weights: of every tile [out_features, in_features]; bias: [out_features], of all.
    """
    products = [
        F.linear(x.index_select(0, tile), weight, bias)
        for tile, weight in zip(rows, weights, strict=True)
    ]
    _put(y, rows, kept, torch.stack(products))


def put_embeddings(
    y: torch.Tensor,
    ids: torch.Tensor,
    rows: torch.Tensor,
    kept: torch.Tensor,
    weights: Sequence[torch.Tensor],
    factor: torch.Tensor | float,
) -> None:
    """Put other embeddings, times ``factor``, in the place of ``y``'s rows.

    Args:
        y: [batch rows, hidden]; ids: int64 [batch rows].
        weights: of every tile [vocabulary, hidden]; rows, kept: as in ``add_lora``.
    """
    found = [
        F.embedding(ids[tile], weight) * factor for tile, weight in zip(rows, weights, strict=True)
    ]
    _put(y, rows, kept, torch.stack(found))


def rescale(
    y: torch.Tensor,
    rows: torch.Tensor,
    kept: torch.Tensor,
    factor: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> None:
    """``y = factor * y + bias`` for the rows of tiles, in place.

    Args:
        y, rows, kept: as in ``add_lora``.
        factor, bias: [tiles, out_features], or None for one and zero.
    """
    tiles, width = rows.shape
    found = y.index_select(0, rows.flatten()).view(tiles, width, -1)
    if factor is not None:
        found = found * factor[:, None]
    if bias is not None:
        found = found + bias[:, None]
    _put(y, rows, kept, found)


def _put(y: torch.Tensor, rows: torch.Tensor, kept: torch.Tensor, values: torch.Tensor) -> None:
    flat = rows.flatten().index_select(0, kept)
    y.index_copy_(0, flat, values.flatten(0, 1).index_select(0, kept))
