"""How often the base and each head have the right token among their first guesses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from lorax_spec.train.data import IGNORED, TokenStream
from lorax_spec.train.loop import Guesser, embeddings, following, last_hidden, shifted

TOP = 10


@dataclass(frozen=True)
class HeldOut:
    """Figures on held-out text, row 0 for the base's next token, row k + 1 for head k.

    ``top`` [1 + heads][10]: share of tokens among the first 1, 2, ... 10 guesses;
    ``loss`` [1 + heads]: mean cross entropy in nats.
    """

    top: list[list[float]]
    loss: list[float]


@torch.no_grad()
def held_out_figures(
    model: Any,
    heads: Guesser,
    stream: TokenStream,
    *,
    windows: int = 32,
    length: int = 512,
    batch_size: int = 4,
) -> HeldOut:
    """Teacher-forced accuracy and loss on evenly spaced windows of ``stream``."""
    length = min(length, len(stream) - 1 - len(heads))
    extent = length + 1 + len(heads)
    starts = stream.spaced(windows, extent)
    lm_head = model.get_output_embeddings()
    hits = torch.zeros(1 + len(heads), TOP)
    losses = torch.zeros(1 + len(heads))
    learned = torch.zeros(1 + len(heads))
    for first in range(0, len(starts), batch_size):
        ids, labels = stream.windows(starts[first : first + batch_size], extent)
        hidden = last_hidden(model, ids[:, :length])
        for row in range(1 + len(heads)):
            rows, targets = shifted(hidden, labels, row + 1)
            kept = targets != IGNORED
            rows, targets = rows[kept], targets[kept]
            if row == 0:
                logits = lm_head(rows).float()
            else:
                path = following(ids, length, row).to(rows.device)[kept]
                embedded = embeddings(model, path) if heads.reads_tokens else None
                logits = heads.logits(row - 1, rows, lm_head, embedded).float()
            rank = (logits > logits.gather(1, targets[:, None])).sum(1)
            hits[row] += (rank[:, None] < torch.arange(1, TOP + 1, device=rank.device)).sum(0).cpu()
            losses[row] += float(F.cross_entropy(logits, targets, reduction="sum"))
            learned[row] += len(targets)
    learned = learned.clamp(min=1)
    return HeldOut((hits / learned[:, None]).tolist(), (losses / learned).tolist())
