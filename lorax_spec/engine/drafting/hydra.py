"""Hydra heads as a drafter: every head also sees the tokens drafted before its guess.

So guesses depend on their path, and an offer grows level by level: one head reads the paths of
all sequences at once, and the likeliest of what it guesses are followed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from typing import Protocol

import torch

from lorax_spec.adapters.weights import HydraHeads
from lorax_spec.engine.drafting.by_heads import offers_by_heads
from lorax_spec.engine.drafting.drafter import Outcome, Turn
from lorax_spec.engine.drafting.eligible import HYDRA
from lorax_spec.engine.drafting.ranking import CANDIDATES, Ranking
from lorax_spec.engine.sequence import Sequence
from lorax_spec.kernels.hydra import head_states
from lorax_spec.speculation.medusa import HeadGuesses
from lorax_spec.speculation.offer import Offer
from lorax_spec.speculation.tree import ROOT

#: Paths of a sequence followed to each depth.
WIDTH = 4
#: Offered nodes for each node that may be drafted, so that a merge or a grammar can choose.
_SPARE = 2

#: The best guesses after each path, best first: (logits float32 [rows, vocabulary], turn of each
#: row, tokens ahead of the last committed one, the heads, how many) to a list for each row.
Rank = Callable[[torch.Tensor, Rows[Turn], int, HydraHeads, int], Rows[HeadGuesses]]


class Base(Protocol):
    """What heads need of the base model."""

    def embed(self, ids: torch.Tensor) -> torch.Tensor: ...

    def head_logits(self, states: torch.Tensor) -> torch.Tensor: ...


def ranked_by(ranking: Ranking) -> Rank:
    """Calibrated, and with the noise of the guessed position where the request samples."""

    def rank(
        logits: torch.Tensor, turns: Rows[Turn], depth: int, heads: HydraHeads, most: int
    ) -> Rows[HeadGuesses]:
        guesses = ranking.guesses(logits[None], turns, depth, heads.calibration, most)
        return [only for (only,) in guesses]

    return rank


class HydraDrafter:
    """Guesses from the heads of a sequence's own adapter, or of the one it is paired with.

    Of an adapter with a static tree nothing else is offered.
    """

    name = HYDRA

    def __init__(self, base: Base, rank: Rank | None = None, width: int = WIDTH) -> None:
        self._base = base
        self._rank = rank or ranked_by(Ranking())
        self._width = width

    def offer(self, turns: Rows[Turn]) -> list[Offer]:
        return offers_by_heads(turns, lambda turn: turn.sequence.hydra, self._offers)

    def observe(self, outcomes: Rows[Outcome]) -> None:
        """Heads read hidden states and tokens only."""

    def forget(self, sequence: Sequence) -> None:
        """Nothing is kept of a sequence."""

    @torch.inference_mode()
    def _offers(self, heads: HydraHeads, turns: list[Turn]) -> list[Offer]:
        hidden = torch.stack([turn.hidden for turn in turns])
        ranks = None if heads.choices is None else _ranks_below(heads.choices)
        growths = [_Growth(turn, ranks, self._width) for turn in turns]
        for head in range(heads.num_heads):
            ends = [(i, end) for i, growth in enumerate(growths) for end in growth.descend(head)]
            if not ends:
                break
            rows = torch.tensor([i for i, _ in ends], device=hidden.device)
            paths = [growths[i].path(end) for i, end in ends]
            states = head_states(
                hidden[rows],
                self._base.embed(torch.tensor(paths, device=hidden.device)),
                heads.input_weight[head],
                heads.input_bias[head],
                heads.output_weight[head],
                heads.output_bias[head],
            )
            logits = self._base.head_logits(states)
            most = max(growth.candidates for growth in growths)
            guesses = self._rank(logits, [turns[i] for i, _ in ends], head + 1, heads, most)
            for (i, end), mine in zip(ends, guesses, strict=True):
                growths[i].grow(end, mine)
        return [growth.offer(self.name) for growth in growths]


class _Growth:
    """A turn's offer on its way.

    ``ranks`` says which ranks of guesses a static tree has after each path of ranks; without it
    all may enter, and the ``width`` likeliest paths are followed.
    """

    def __init__(
        self, turn: Turn, ranks: Mapping[tuple[int, ...], list[int]] | None, width: int
    ) -> None:
        self._turn = turn
        self._ranks = ranks
        self._width = width
        self._limit = _SPARE * turn.nodes
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._probabilities: list[float] = []
        self._reach: list[float] = []
        self._rank_paths: list[tuple[int, ...]] = []
        self._level = 0
        #: A node must be likelier than this, or there is enough without it.
        self._least = 0.0
        most = CANDIDATES if ranks is None else 1 + max(max(below) for below in ranks.values())
        self.candidates = min(most, self._limit) if ranks is None else most

    def descend(self, depth: int) -> list[int]:
        """Go on to the level after ``depth``: the paths to follow there, by their last nodes."""
        if depth >= self._turn.depth:
            return []
        if depth == 0:
            return [ROOT]
        if len(self._reach) >= self._limit:
            self._least = heapq.nlargest(self._limit, self._reach)[-1]
        level = range(self._level, len(self._tokens))
        self._level = len(self._tokens)
        likely = [node for node in level if self._reach[node] > self._least]
        if self._ranks is not None:
            return [node for node in likely if self._rank_paths[node] in self._ranks]
        return heapq.nlargest(self._width, likely, key=self._reach.__getitem__)

    def path(self, end: int) -> list[int]:
        """The last committed token and those drafted down to the node ``end``."""
        path = []
        while end != ROOT:
            path.append(self._tokens[end])
            end = self._parents[end]
        path.append(self._turn.sequence.tokens[-1])
        return path[::-1]

    def grow(self, end: int, guesses: HeadGuesses) -> None:
        """Add guesses after the node ``end``, given likeliest first."""
        reach = 1.0 if end == ROOT else self._reach[end]
        ranks_so_far = () if end == ROOT else self._rank_paths[end]
        ranks = range(len(guesses)) if self._ranks is None else self._ranks[ranks_so_far]
        for rank in ranks:
            if rank >= len(guesses):
                break
            token, probability = guesses[rank]
            if reach * probability <= self._least:
                break
            self._tokens.append(token)
            self._parents.append(end)
            self._probabilities.append(probability)
            self._reach.append(reach * probability)
            self._rank_paths.append((*ranks_so_far, rank))

    def offer(self, drafter: str) -> Offer:
        """The likeliest nodes; none is likelier than its parent, which comes before it."""
        count = len(self._tokens)
        likeliest = sorted(range(count), key=lambda node: (-self._reach[node], node))
        kept = sorted(likeliest[: self._limit])
        place = {node: index for index, node in enumerate(kept)} | {ROOT: ROOT}
        return Offer(
            tuple(self._tokens[node] for node in kept),
            tuple(place[self._parents[node]] for node in kept),
            tuple(self._probabilities[node] for node in kept),
            (drafter,) * len(kept),
        )


def _ranks_below(choices: Rows[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    """The ranks that a static tree has after each of its inner paths, in order."""
    below: dict[tuple[int, ...], list[int]] = {}
    for path in sorted(choices):
        below.setdefault(path[:-1], []).append(path[-1])
    return below
