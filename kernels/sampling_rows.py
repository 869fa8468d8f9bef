"""Choosing tokens for many rows of logits, each by parameters of its own, all of them in tensors.

The rule: what a grammar bans has a score of minus infinity; then logit bias, repetition penalty
(Keskar et al. 2019, arXiv 1909.05858; divides positive scores, multiplies others, of any token
seen), frequency and presence penalty (by the output's counts), temperature, top-k (ties with the
k-th stay), top-p (Holtzman et al. 2020: a token stays while those before it hold less than p),
typical-p (Meister et al. 2022: the same, in order of how far a token's surprise is from the
entropy), min-p; every filter works on what the one before left.  Then Gumbel noise, and the highest
score, of equal ones the lowest token.  Greedy rows take the highest score before the temperature.
Log-probabilities are those of the raw logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorax_spec.kernels.noise import gumbel

#: Tokens of a drafted prefix at most.
MAX_EXTRA = 64
#: Dividing by less could overflow; nothing but the best score survives this already.
COLDEST = 1e-30
MASK_WORD = 32


@dataclass(frozen=True)
class SamplingRows:
    """Places to choose a token at; a captured graph finds new contents in the same tensors.

    ``source`` int32 [rows]: the row of logits, or -1 where a row is not used; what it chooses then
    means nothing.
    ``temperature`` float32 [rows], 0 is greedy; ``top_k`` int32, 0 is none; ``top_p``,
    ``typical_p`` float32, 1 is none; ``min_p`` float32, 0 is none.
    ``repetition`` float32 [rows], 1 is none; ``frequency``, ``presence`` float32, 0 is none.
    ``seeds`` int64 [rows]: the unsigned seed's bits; ``positions`` int64: of the token to choose,
    below 2**32.
    ``history`` int32 [rows]: slot of ``seen`` bool [slots, vocabulary] (prompt and output) and
    ``counts`` float32 [slots, vocabulary] (output), or -1; no penalty applies without one.
    ``extra_tokens`` int32 [rows, 64], ``extra_counts`` int32 [rows]: the drafted prefix, which
    counts as output too.
    ``bias_starts`` int32 [rows + 1], ``bias_tokens`` int32, ascending within a row and none twice,
    ``bias_values`` float32.
    ``mask`` int32 [rows]: slot of ``masks`` int32 [slots, ceil(vocabulary / 32)], or -1; token t is
    allowed where bit t % 32 of word t // 32 is set.
    """

    source: torch.Tensor
    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    typical_p: torch.Tensor
    repetition: torch.Tensor
    frequency: torch.Tensor
    presence: torch.Tensor
    seeds: torch.Tensor
    positions: torch.Tensor
    history: torch.Tensor
    seen: torch.Tensor
    counts: torch.Tensor
    extra_tokens: torch.Tensor
    extra_counts: torch.Tensor
    bias_starts: torch.Tensor
    bias_tokens: torch.Tensor
    bias_values: torch.Tensor
    mask: torch.Tensor
    masks: torch.Tensor

    def __len__(self) -> int:
        return self.source.shape[0]


def sample(logits: torch.Tensor, rows: SamplingRows) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens int64 [rows] and their log-probabilities float32 [rows]; -1 and 0 where not used."""
    tokens = torch.full((len(rows),), -1, dtype=torch.int64, device=logits.device)
    logprobs = torch.zeros(len(rows), dtype=torch.float32, device=logits.device)
    for row, source in enumerate(rows.source.tolist()):
        if source < 0:
            continue
        scores = penalized(logits[source].float(), rows, row)
        if float(rows.temperature[row]) > 0.0:
            seed, position = int(rows.seeds[row]) % 2**64, int(rows.positions[row])
            noise = gumbel([seed], [position], scores.shape[0], scores.device)[0]
            scores = filtered(tempered(scores, rows, row), rows, row) + noise
        tokens[row] = scores.argmax()
        logprobs[row] = logits[source].float().log_softmax(-1)[tokens[row]]
    return tokens, logprobs


def penalized(scores: torch.Tensor, rows: SamplingRows, row: int) -> torch.Tensor:
    """One row's scores [vocabulary] after mask, bias and penalties."""
    mask, slot = int(rows.mask[row]), int(rows.history[row])
    tokens = torch.arange(scores.shape[0], device=scores.device)
    if mask >= 0:
        allowed = (rows.masks[mask][tokens // MASK_WORD] >> (tokens % MASK_WORD)) & 1
        scores = scores.masked_fill(allowed == 0, -torch.inf)
    start, stop = rows.bias_starts[row : row + 2].tolist()
    biased, values = rows.bias_tokens[start:stop].long(), rows.bias_values[start:stop]
    scores = scores.index_add(0, biased, values.to(scores.dtype))
    if slot < 0:
        return scores
    extra = rows.extra_tokens[row, : int(rows.extra_counts[row])].long()
    drafted = extra.bincount(minlength=scores.shape[0])
    seen = rows.seen[slot] | (drafted > 0)
    counts = rows.counts[slot].to(scores.dtype) + drafted
    penalty = rows.repetition[row].to(scores.dtype)
    repeated = torch.where(scores > 0, scores / penalty, scores * penalty)
    scores = torch.where(seen, repeated, scores)
    scores = scores - counts * rows.frequency[row]
    return scores - (counts > 0).to(scores.dtype) * rows.presence[row]


def tempered(scores: torch.Tensor, rows: SamplingRows, row: int) -> torch.Tensor:
    """Scores by the row's temperature, which is above 0."""
    return scores / rows.temperature[row].to(scores.dtype).clamp(min=COLDEST)


def filtered(scores: torch.Tensor, rows: SamplingRows, row: int) -> torch.Tensor:
    """What the row's filters remove is set to minus infinity."""
    top_k, top_p = int(rows.top_k[row]), float(rows.top_p[row])
    typical_p, min_p = float(rows.typical_p[row]), float(rows.min_p[row])
    if 0 < top_k < scores.shape[0]:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[-1], -torch.inf)
    if top_p < 1.0:
        scores = _nucleus(scores, -scores, top_p)
    if typical_p < 1.0:
        logprobs = scores.log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).nansum(-1)
        scores = _nucleus(scores, (-logprobs - entropy).abs(), typical_p)
    if min_p > 0.0:
        probabilities = scores.softmax(-1)
        scores = scores.masked_fill(probabilities < min_p * probabilities.max(), -torch.inf)
    return scores


def _nucleus(scores: torch.Tensor, ranks: torch.Tensor, p: float) -> torch.Tensor:
    """Keep tokens in ascending order of ``ranks`` while those before hold less than ``p``."""
    order = ranks.sort(stable=True).indices
    ordered = scores.softmax(-1)[order]
    before = torch.cat([ordered.new_zeros(1), ordered.cumsum(-1)[:-1]])
    return scores.index_fill(0, order[before >= p], -torch.inf)
