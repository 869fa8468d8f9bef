"""Paged attention over ragged rows and draft trees: the plain-torch reference.

Every row's softmax is over all keys that it sees, at once::

    out[i] = softmax(softcap * tanh(scale * q[i] @ K[seen].T / softcap)) @ V[seen]

A row of a known token at position ``p`` sees the keys ``0..p``; a node's row sees all known keys
and those nodes that its mask names.  A sliding window hides keys ``window`` or more positions back,
a node's key having the position of the node's row.  A sink is one more logit that takes weight and
adds nothing.
"""

from __future__ import annotations

import torch

from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.kernels.ragged import RaggedRows


def ragged_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    rows: RaggedRows,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend every row of ``query``, one sequence after another, in query's dtype.

    Args:
        query: [heads, rows, key_dim], rotated.
        keys, values: one layer's caches [kv_heads, slots, dim]; this step's rows written.
        sinks: one extra logit per head [heads].

    Returns:
        [rows, heads, value_dim]; zeros in rows that only pad.
    """
    heads, count, _ = query.shape
    share = heads // keys.shape[0]
    out = query.new_zeros(count, heads, values.shape[-1])
    for sequence in range(len(rows.known)):
        own = slice(int(rows.row_starts[sequence]), int(rows.row_starts[sequence + 1]))
        if own.start == own.stop:
            continue
        visible = visible_keys(rows, sequence, window)
        key = torch.arange(visible.shape[1], device=query.device)
        slots = rows.block_tables[sequence, key // BLOCK_SIZE] * BLOCK_SIZE + key % BLOCK_SIZE
        k = keys[:, slots].repeat_interleave(share, 0)
        v = values[:, slots].repeat_interleave(share, 0)
        scores = query[:, own] @ k.transpose(1, 2) * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores.masked_fill(~visible, -torch.inf)
        if sinks is not None:
            sink = sinks.to(scores.dtype)[:, None, None].expand(-1, scores.shape[1], 1)
            scores = torch.cat([scores, sink], -1)
        weights = scores.softmax(-1)[..., : len(key)]
        out[own] = (weights @ v).transpose(0, 1)
    return out


def visible_keys(rows: RaggedRows, sequence: int, window: int | None) -> torch.Tensor:
    """Bool [rows of the sequence, its keys]: which keys each row sees."""
    first, draft, end = (
        int(rows.row_starts[sequence]),
        int(rows.draft_starts[sequence]),
        int(rows.row_starts[sequence + 1]),
    )
    known, nodes = int(rows.known[sequence]), end - draft
    positions = rows.positions[first:end].long()
    key_positions = torch.arange(known + nodes, device=positions.device)
    key_positions[known:] = positions[draft - first :]

    visible = key_positions <= positions[:, None]
    node = torch.arange(nodes, device=positions.device)
    visible[:, known:] = (rows.ancestors[first:end, None] >> node & 1).bool()
    if window is not None:
        visible &= positions[:, None] - key_positions < window
    return visible
