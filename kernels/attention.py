"""Paged attention over ragged query rows: the plain-torch reference.

Semantics: query row ``i`` at position ``p`` attends to the keys of its own sequence at positions
``0..p`` (the last ``window`` of them, where the layer has a sliding window)::

    out[i] = softmax(softcap(scale * q[i] @ K[:p+1].T)) @ V[:p+1]

A draft tree is attended in one of two ways.  Path by path, every root-to-leaf path being an
ordinary causal sequence whose last keys lie in scratch slots (``key_slots`` of a tile name the
slots in the order of positions): position by position the sums are then the same as those of plain
decoding, which is what makes speculation exact to the bit.  Or all nodes in one tile, with
``Branches`` saying which of them a row sees: the context is then read once.

Exact attention takes keys in chunks of one fixed size and combines them by the online softmax
(Milakov and Gimelshein 2018, arXiv 1805.02867), so a row's result does not depend on how much
longer the other rows' contexts are.  Otherwise torch's own fused attention does the same sums in an
order of its choice, several times as fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from lorax_spec.kernels.kv_cache import BLOCK_SIZE

#: Keys per chunk; fixed, since the order of summation decides the last bit.
KEY_CHUNK = 128


@dataclass(frozen=True)
class Branches:
    """Keys that are not in the order of their positions, since they are nodes of draft trees.

    ``key_positions`` int64 [tiles, keys]: the position of each key.  ``hidden`` bool
    [tiles, width, keys]: keys that a row does not see, wherever they are.
    """

    key_positions: torch.Tensor
    hidden: torch.Tensor


@dataclass(frozen=True)
class Tiles:
    """Query rows grouped into tiles of equal width, each with the keys of one sequence or path.

    ``rows`` int64 [tiles, width]: flattened batch row of each query, padded with repeats.
    ``positions`` int64 [tiles, width]: its position in the sequence.
    ``key_slots`` int64 [tiles, keys]: cache slot of each key position, padded with any valid slot;
    for exact attention ``keys`` is a multiple of KEY_CHUNK.
    ``key_blocks`` int64 [tiles, keys / BLOCK_SIZE], where the slots are those of whole blocks in
    order: sixteen slots are then copied at a time.
    ``in_order``: the flattened ``rows`` are those of the batch, each once, so that nothing has to
    be gathered or scattered.
    """

    rows: torch.Tensor
    positions: torch.Tensor
    key_slots: torch.Tensor
    key_blocks: torch.Tensor | None = None
    in_order: bool = False
    branches: Branches | None = None
    _biases: dict[int | None, torch.Tensor] = field(default_factory=dict, compare=False)

    def bias(self, window: int | None) -> torch.Tensor:
        """Additive float32 mask [tiles, 1, width, keys], made once for all layers of a step."""
        if window not in self._biases:
            if self.branches is None:
                keys = torch.arange(self.key_slots.shape[1], device=self.rows.device)
                distance = self.positions[:, :, None] - keys
                hidden = distance < 0
            else:
                distance = self.positions[:, :, None] - self.branches.key_positions[:, None]
                hidden = (distance < 0) | self.branches.hidden
            if window is not None:
                hidden |= distance >= window
            bias = torch.zeros(hidden.shape, dtype=torch.float32, device=self.rows.device)
            self._biases[window] = bias.masked_fill_(hidden, -torch.inf)[:, None]
        return self._biases[window]


def paged_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    groups: tuple[Tiles, ...],
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    exact: bool = True,
) -> torch.Tensor:
    """Attend every row of ``query``.

    Args:
        query: [heads, rows, head_dim], rotated.
        keys, values: one layer's caches [kv_heads, slots, head_dim]; this step's rows written.
        groups: every row of ``query`` in at least one tile.
        sinks: one extra logit per head [heads] that takes weight and adds no value.
        exact: the same bits whatever else is in the batch.

    Returns:
        [rows, heads, value_dim] in query's dtype.
    """
    heads, rows, _ = query.shape
    fused = not exact and softcap is None and sinks is None

    def attend(tiles: Tiles) -> torch.Tensor:
        own = query if tiles.in_order else query.index_select(1, tiles.rows.flatten())
        if fused:
            return _attend_fused(own, keys, values, tiles, scale, window)
        return _attend_chunks(own, keys, values, tiles, scale, window, softcap, sinks)

    if len(groups) == 1 and groups[0].in_order:
        return attend(groups[0])
    out = query.new_empty(rows, heads, values.shape[-1])
    for tiles in groups:
        out.index_copy_(0, tiles.rows.flatten(), attend(tiles))
    return out


def _gathered(cache: torch.Tensor, tiles: Tiles) -> torch.Tensor:
    """The tiles' keys or values [kv_heads, tiles * keys, head_dim]."""
    if tiles.key_blocks is None:
        return cache.index_select(1, tiles.key_slots.flatten())
    kv_heads, slots, head_dim = cache.shape
    blocks = cache.view(kv_heads, slots // BLOCK_SIZE, BLOCK_SIZE * head_dim)
    return blocks.index_select(1, tiles.key_blocks.flatten()).view(kv_heads, -1, head_dim)


def _attend_fused(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tiles: Tiles,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """[tiles * width, heads, value_dim], by torch's scaled dot product attention."""
    heads, _, head_dim = query.shape
    kv_heads, value_dim = keys.shape[0], values.shape[-1]
    count, width = tiles.rows.shape
    k, v = _gathered(keys, tiles), _gathered(values, tiles)
    if count == 1:  # one sequence: no tile dimension to bring forward
        q, k, v = query[None], k[None], v[None]
    else:
        q = query.reshape(heads, count, width, head_dim).transpose(0, 1)
        k = k.view(kv_heads, count, -1, head_dim).transpose(0, 1)
        v = v.view(kv_heads, count, -1, value_dim).transpose(0, 1)
    out = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=tiles.bias(window).to(query.dtype),
        scale=scale,
        enable_gqa=heads != kv_heads,
    )
    return out.transpose(1, 2).reshape(count * width, heads, value_dim)


def _attend_chunks(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tiles: Tiles,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """[tiles * width, heads, value_dim], chunk by chunk."""
    heads, _, head_dim = query.shape
    kv_heads, value_dim = keys.shape[0], values.shape[-1]
    count, width = tiles.rows.shape
    share = heads // kv_heads
    length = tiles.key_slots.shape[1]
    # [kv_heads * tiles, share * width, head_dim]: heads of one group share a product.
    q = (query * scale).view(kv_heads, share, count, width, head_dim).transpose(1, 2)
    q = q.reshape(kv_heads * count, share * width, head_dim)
    k = _gathered(keys, tiles).view(kv_heads * count, length, head_dim)
    v = _gathered(values, tiles).view(kv_heads * count, length, value_dim)
    bias = tiles.bias(window)

    top = weight = total = None
    for start in range(0, length, KEY_CHUNK):
        size = min(KEY_CHUNK, length - start)
        chunk = slice(start, start + size)
        scores = torch.bmm(q, k[:, chunk].transpose(1, 2)).float()
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores.view(kv_heads, count, share, width, size) + bias[..., chunk]
        peak = scores.amax(-1, keepdim=True)
        if top is None:
            new_top = peak.clamp_min(torch.finfo(torch.float32).min)
        else:
            new_top = torch.maximum(top, peak)
        p = (scores - new_top).exp_()
        part = torch.bmm(p.view(kv_heads * count, share * width, size).to(v.dtype), v[:, chunk])
        part = part.float().view(kv_heads, count, share, width, value_dim)
        if top is None or weight is None or total is None:
            weight, total = p.sum(-1, keepdim=True), part
        else:
            shrink = (top - new_top).exp_()
            weight = weight * shrink + p.sum(-1, keepdim=True)
            total = total * shrink + part
        top = new_top
    assert top is not None and weight is not None and total is not None
    if sinks is not None:
        weight = weight + (sinks.float().view(kv_heads, 1, share, 1, 1) - top).exp_()
    out = (total / weight).to(query.dtype)
    # [kv_heads, tiles, share, width, dim] -> [tiles, width, kv_heads * share, dim]
    return out.permute(1, 3, 0, 2, 4).reshape(count * width, heads, value_dim)
