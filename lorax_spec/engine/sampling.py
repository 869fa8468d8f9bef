"""Choosing the token of a position (promise P1).

The choice is ``argmax(processed_logits + gumbel(seed, position))``, or the plain argmax where the
request is greedy.  ``processed_logits`` follow from the raw logits, the request's parameters and
the tokens before the position, nothing else; every row is processed by operations of its own, so
no neighbour can change a bit of it.

Order: what a grammar bans, logit bias, repetition, frequency and presence penalty, temperature,
top-k, top-p, typical-p, min-p.  What is banned has a score of minus infinity from the start: no
bias brings it back, and the filters share the probability among what is left.  Log-probabilities
stay those of the raw logits.  Repetition counts prompt and output (Keskar et al. 2019, arXiv
1909.05858); frequency and presence count the output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from lorax_spec.engine.noise import Noise, noise_of
from lorax_spec.types import Parameters

#: Dividing by less could overflow; nothing but the best score survives this already.
COLDEST = 1e-30


@dataclass(frozen=True)
class SamplingRule:
    """The sampling part of a request, every default filled in; temperature 0 is greedy."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    seed: int = 0
    alternatives: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def penalizes(self) -> bool:
        return (
            self.repetition_penalty != 1.0
            or self.frequency_penalty != 0.0
            or self.presence_penalty != 0.0
        )

    @property
    def filters(self) -> bool:
        """Whether it cuts the unlikely."""
        return self.top_k > 0 or min(self.top_p, self.typical_p) < 1.0 or self.min_p > 0.0

    @property
    def plain(self) -> bool:
        """The raw logits decide."""
        return self.greedy and not self.penalizes and not self.logit_bias


def sampling_rule(parameters: Parameters) -> SamplingRule:
    """The rule of validated parameters."""
    p = parameters
    return SamplingRule(
        temperature=p.temperature or 0.0,
        top_k=p.top_k or 0,
        top_p=1.0 if p.top_p is None else p.top_p,
        min_p=p.min_p or 0.0,
        typical_p=1.0 if p.typical_p is None else p.typical_p,
        repetition_penalty=1.0 if p.repetition_penalty is None else p.repetition_penalty,
        frequency_penalty=p.frequency_penalty or 0.0,
        presence_penalty=p.presence_penalty or 0.0,
        logit_bias=p.logit_bias or None,
        seed=p.seed or 0,
        alternatives=p.return_k_alternatives or 0,
    )


class History:
    """Which tokens a sequence holds, for its penalties: ``seen`` bool [vocabulary] of prompt and
    output, ``counts`` float32 [vocabulary] of the output."""

    def __init__(
        self, prompt: Sequence[int], output: Iterable[int], vocabulary: int, device: torch.device
    ) -> None:
        self.seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        self.counts = torch.zeros(vocabulary, dtype=torch.float32, device=device)
        self.seen[list(prompt)] = True
        for token in output:
            self.advance(token)

    def advance(self, token: int) -> None:
        self.seen[token] = True
        self.counts[token] += 1


@dataclass(frozen=True)
class Place:
    """A row of logits, the position of the token to choose from it, and by which rule."""

    row: int
    position: int
    rule: SamplingRule
    history: History | None
    #: Tokens that a grammar forbids here, bool [vocabulary]; never all of them.
    banned: torch.Tensor | None = None
    #: The request's noise, which may be made already.
    noise: Noise | None = None

    @property
    def plain(self) -> bool:
        """The raw logits decide."""
        return self.rule.plain and self.banned is None


@dataclass(frozen=True)
class Chosen:
    """A token and its log-probability under the raw logits; alternatives are (id, logprob)."""

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


def choose(logits: torch.Tensor, places: Sequence[Place]) -> list[Chosen]:
    """Choose a token at every place; ``logits`` is float32 [rows, vocabulary], raw."""
    device = logits.device
    rows = logits.index_select(0, torch.tensor([place.row for place in places], device=device))
    scores = rows
    if not all(place.plain for place in places):
        scores = torch.stack([process(row, place) for row, place in zip(rows, places, strict=True)])
        noisy = [i for i, place in enumerate(places) if not place.rule.greedy]
        if noisy:
            random = [places[i] for i in noisy]
            wanted = [(p.noise or Noise(p.rule.seed), p.position) for p in random]
            noise = noise_of(wanted, scores.shape[1], device)
            for holder, position in wanted:
                holder.forget_before(position)
            scores.index_add_(0, torch.tensor(noisy, device=device), noise)
    tokens = scores.argmax(-1)
    logprobs = rows.log_softmax(-1)
    chosen_logprobs = logprobs.gather(1, tokens[:, None])[:, 0].tolist()
    return [
        Chosen(token, logprob, _alternatives(logprobs[i], places[i].rule.alternatives))
        for i, (token, logprob) in enumerate(zip(tokens.tolist(), chosen_logprobs, strict=True))
    ]


def process(row: torch.Tensor, place: Place) -> torch.Tensor:
    """Processed logits [vocabulary] of one raw row."""
    rule, scores = place.rule, row
    if place.banned is not None:
        scores = scores.masked_fill(place.banned, -torch.inf)
    if rule.logit_bias:
        scores = scores.clone()
        ids = torch.tensor(list(rule.logit_bias), device=row.device)
        scores[ids] += torch.tensor(list(rule.logit_bias.values()), device=row.device)
    if rule.penalizes:
        assert place.history is not None
        scores = _penalize(scores, rule, place.history)
    return scores if rule.greedy else _warp(scores / max(rule.temperature, COLDEST), rule)


def _penalize(scores: torch.Tensor, rule: SamplingRule, history: History) -> torch.Tensor:
    penalty = rule.repetition_penalty
    if penalty != 1.0:
        repeated = torch.where(scores > 0, scores / penalty, scores * penalty)
        scores = torch.where(history.seen, repeated, scores)
    if rule.frequency_penalty or rule.presence_penalty:
        scores = scores - history.counts * rule.frequency_penalty
        scores = scores - (history.counts > 0).float() * rule.presence_penalty
    return scores


def _warp(scores: torch.Tensor, rule: SamplingRule) -> torch.Tensor:
    """Cut the unlikely: each filter sets what it removes to minus infinity."""
    if 0 < rule.top_k < scores.shape[0]:
        least = scores.topk(rule.top_k).values[-1]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if rule.top_p < 1.0:
        ordered, order = scores.sort(descending=True, stable=True)
        before = ordered.softmax(-1).cumsum(-1).roll(1)
        before[0] = 0.0
        scores = scores.index_fill(0, order[before >= rule.top_p], -torch.inf)
    if rule.typical_p < 1.0:
        logprobs = scores.log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).nansum(-1)
        surprise = (-logprobs - entropy).abs()
        _, order = surprise.sort(stable=True)
        before = logprobs.exp()[order].cumsum(-1).roll(1)
        before[0] = 0.0
        scores = scores.index_fill(0, order[before >= rule.typical_p], -torch.inf)
    if rule.min_p > 0.0:
        probabilities = scores.softmax(-1)
        scores = scores.masked_fill(probabilities < rule.min_p * probabilities.max(), -torch.inf)
    return scores


def _alternatives(logprobs: torch.Tensor, count: int) -> tuple[tuple[int, float], ...]:
    if count == 0:
        return ()
    values, tokens = logprobs.topk(min(count, logprobs.shape[0]))
    return tuple(zip(tokens.tolist(), values.tolist(), strict=True))
