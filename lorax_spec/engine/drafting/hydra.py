"""Hydra heads as a drafter: every head also sees the tokens drafted before its guess.

So guesses depend on their path, and an offer grows level by level: one head reads the paths of
all sequences at once, and the likeliest of what it guesses are followed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from contextlib import nullcontext
from typing import Protocol

import torch

from lorax_spec.adapters.weights import HydraHeads
from lorax_spec.engine.drafting.by_heads import offers_by_heads
from lorax_spec.engine.drafting.drafter import Outcome, Turn
from lorax_spec.engine.drafting.eligible import HYDRA
from lorax_spec.engine.drafting.level_cost import LevelCost
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

#: Which turn's, and the last node of a path of its.
_End = tuple[int, int]

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

    Of an adapter with a static tree nothing else is offered.  Where a request leaves the size of
    its draft open, levels that are not worth their time are left out.
    """

    name = HYDRA

    def __init__(
        self,
        base: Base,
        rank: Rank | None = None,
        width: int = WIDTH,
        cost: LevelCost | None = None,
    ) -> None:
        """``cost``: of levels; without it every level is worth its time."""
        self._base = base
        self._rank = rank or ranked_by(Ranking())
        self._width = width
        self._cost = cost

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
            if head and self._cost is not None:
                ends = _worth_it(ends, growths, self._cost)
            if not ends:
                break
            with nullcontext() if self._cost is None else self._cost.level(len(ends)):
                self._grow(heads, head, hidden, growths, ends)
        return [growth.offer(self.name) for growth in growths]

    def _grow(
        self,
        heads: HydraHeads,
        head: int,
        hidden: torch.Tensor,
        growths: Rows[_Growth],
        ends: Rows[_End],
    ) -> None:
        """One more level after ``ends``."""
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
        guesses = self._rank(logits, [growths[i].turn for i, _ in ends], head + 1, heads, most)
        for (i, end), mine in zip(ends, guesses, strict=True):
            growths[i].grow(end, mine)


def _worth_it(ends: list[_End], growths: Rows[_Growth], cost: LevelCost) -> list[_End]:
    """The paths to follow further: those of requests that ordered their drafts, and all others if
    together they should bring more than they cost."""
    ordered = [growth.ordered for growth in growths]
    free = [(i, end) for i, end in ends if not ordered[i]]
    among = [growth for growth in growths if not growth.ordered]
    gain = sum(growth.next_gain for growth in among)
    expected = sum(growth.expected for growth in among)
    if not free or cost.pays(gain, len(free), expected, len(among)):
        return ends
    return [(i, end) for i, end in ends if ordered[i]]


class _Growth:
    """A turn's offer on its way.

    ``ranks`` says which ranks of guesses a static tree has after each path of ranks; without it
    all may enter, and the ``width`` likeliest paths are followed.
    """

    def __init__(
        self, turn: Turn, ranks: Mapping[tuple[int, ...], list[int]] | None, width: int
    ) -> None:
        self.turn = turn
        #: The request said how many nodes it wants, and gets them whatever they cost.
        self.ordered = turn.sequence.request.speculation.num_tokens is not None
        self._ranks = ranks
        self._width = width
        self._limit = _SPARE * turn.nodes
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._probabilities: list[float] = []
        self._reach: list[float] = []
        self._rank_paths: list[tuple[int, ...]] = []
        self._level = 0
        #: How likely one of the paths followed last is right, and of those before them.
        self._right = self._right_before = 1.0
        #: A node must be likelier than this: to be of use, or as there is enough without it.
        self._least = turn.least
        most = CANDIDATES if ranks is None else 1 + max(max(below) for below in ranks.values())
        self.candidates = min(most, self._limit) if ranks is None else most

    def descend(self, depth: int) -> list[int]:
        """Go on to the level after ``depth``: the paths to follow there, by their last nodes."""
        if depth >= self.turn.depth:
            self._right = 0.0
            return []
        if depth == 0:
            return [ROOT]
        if len(self._reach) >= self._limit:
            enough = heapq.nlargest(self._limit, self._reach)[-1]
            self._least = max(self.turn.least, enough)
        level = range(self._level, len(self._tokens))
        self._level = len(self._tokens)
        ends = [node for node in level if self._reach[node] > self._least]
        if self._ranks is not None:
            ends = [node for node in ends if self._rank_paths[node] in self._ranks]
        else:
            ends = heapq.nlargest(self._width, ends, key=self._reach.__getitem__)
        self._right_before, self._right = self._right, sum(self._reach[end] for end in ends)
        return ends

    @property
    def expected(self) -> float:
        """Tokens of the step that verifies the offer so far."""
        return 1.0 + sum(heapq.nlargest(self.turn.nodes, self._reach))

    @property
    def next_gain(self) -> float:
        """How likely a guess of the next level is accepted, if it is as sure as the last level."""
        return self._right * min(1.0, self._right / self._right_before) if self._right else 0.0

    def path(self, end: int) -> list[int]:
        """The last committed token and those drafted down to the node ``end``."""
        path = []
        while end != ROOT:
            path.append(self._tokens[end])
            end = self._parents[end]
        path.append(self.turn.sequence.tokens[-1])
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
