"""Low-rank updates for rows of several adapters at once: the plain-torch reference.

Semantics, for every row ``i`` of a tile of adapter ``a``::

    y[i] += scale[a] * (x[i] @ A[a].T) @ B[a].T

Rows of the base model appear in no tile and cost nothing.
"""

from __future__ import annotations

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
