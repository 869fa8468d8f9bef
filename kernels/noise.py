"""Counter-based Gumbel noise: one number per (seed, position, token id), in any order, anywhere.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") keyed by the
seed, with the counter (token id // 4, position, 0, 0) and the lane token id % 4.  Adding the noise
to log-probabilities and taking the argmax samples from them (Gumbel-max); taking the same noise
whatever drafted makes the sample independent of the draft (Daliri, Musco, Suresh 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_ROUNDS = 10
#: Elementwise functions may round a vector's tail otherwise than its body; whole vectors only.
_VECTOR = 64


def philox(
    counters: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    keys: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four uniform 32-bit words for each counter; all int64 tensors of values below 2**32."""
    c0, c1, c2, c3 = counters
    k0, k1 = keys
    for _ in range(_ROUNDS):
        # int64 products wrap modulo 2**64, which keeps both halves right once masked.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) ^ c1 ^ k0) & _MASK,
            p1 & _MASK,
            ((p0 >> 32) ^ c3 ^ k1) & _MASK,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def gumbel(
    seeds: Sequence[int], positions: Sequence[int], vocabulary: int, device: torch.device
) -> torch.Tensor:
    """Standard Gumbel noise, float32 [len(seeds), vocabulary].

    Args:
        seeds: unsigned 64-bit, one per row.
        positions: of the token to be sampled, one per row.
    """
    lanes = -(-vocabulary // _VECTOR) * _VECTOR // 4
    token = torch.arange(lanes, dtype=torch.int64, device=device)[None].expand(len(seeds), lanes)
    words = _words(seeds, positions, token)
    return _noise(torch.stack(words, -1).flatten(1))[:, :vocabulary]


def gumbel_at(seeds: Sequence[int], positions: Sequence[int], tokens: torch.Tensor) -> torch.Tensor:
    """The numbers of some tokens only, float32 of ``tokens``' shape [len(seeds), n].

    Equal to ``gumbel(...)`` there but for the last bit, since a shorter vector may be rounded
    otherwise: good enough to rank by, not to choose by.
    """
    words = torch.stack(_words(seeds, positions, tokens >> 2), -1)
    return _noise(words.gather(-1, (tokens & 3)[..., None])[..., 0])


def _words(
    seeds: Sequence[int], positions: Sequence[int], groups: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Random words for groups of four tokens [len(seeds), n]; one tensor for each of the four."""

    def column(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=groups.device)[:, None]

    zero = torch.zeros_like(groups)
    return philox(
        (groups, column(list(positions)).expand_as(groups), zero, zero),
        (column([s & _MASK for s in seeds]), column([s >> 32 for s in seeds])),
    )


def _noise(words: torch.Tensor) -> torch.Tensor:
    """Gumbel noise of uniform 32-bit words."""
    # v in (0, 1] with full relative precision near 0, where the largest noise comes from.
    v = (words.double().add_(0.5) * 2.0**-32).float()
    return v.neg_().log1p_().neg_().log_().neg_()
