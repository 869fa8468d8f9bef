"""At which rank heads had the tokens that came, place by place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from lorax_spec.bench.counting import answers
from lorax_spec.bench.engine_side import EngineSide, drive
from lorax_spec.bench.static_trees import Ranks
from lorax_spec.bench.workload import Prompt, worth_counting
from lorax_spec.engine.drafting.drafter import Drafter, Outcome, Turn
from lorax_spec.engine.drafting.line_up import line_up
from lorax_spec.engine.loading import Loaded
from lorax_spec.engine.sequence import Sequence as Row
from lorax_spec.speculation.cost import StepCost
from lorax_spec.speculation.offer import NOTHING, Offer
from lorax_spec.speculation.tree import MAX_NODES, ROOT
from lorax_spec.types import Method, Speculation

#: Ranks that are told apart.
_RANKS = 10
_AT_ONCE = 16


@dataclass
class RankProbe:
    """Stands before a drafter of heads and drafts nothing: it asks the heads about tokens that it
    knows will come.

    ``truth`` holds answers by request id; ``ranks`` one path of ranks for each token of theirs
    but the first, to which heads do not speak.
    """

    inner: Drafter
    truth: Mapping[int, Sequence[int]] = field(default_factory=dict)
    ranks: dict[int, list[Ranks]] = field(default_factory=dict)
    #: The same heads with a tree that is full below one path of ranks.
    _combs: dict[tuple[int, Ranks], Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.inner.name

    def offer(self, turns: Sequence[Turn]) -> list[Offer]:
        known = [turn for turn in turns if turn.sequence.request.request_id in self.truth]
        paths: list[Ranks] = [()] * len(known)
        open_ones = list(range(len(known)))
        while open_ones:
            asked = [self._asking(known[i], paths[i]) for i in open_ones]
            offers = self.inner.offer(asked)
            still = []
            for i, offer in zip(open_ones, offers, strict=True):
                rank = _rank(offer, len(paths[i]), self._next(known[i], len(paths[i])))
                if rank is not None:
                    paths[i] = (*paths[i], rank)
                    still.append(i)
            open_ones = [i for i in still if len(paths[i]) < self._depth(known[i])]
        for turn, path in zip(known, paths, strict=True):
            self.ranks.setdefault(turn.sequence.request.request_id, []).append(path)
        return [NOTHING] * len(turns)

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Heads do not learn."""

    def forget(self, sequence: Row) -> None:
        """Ranks are kept."""

    def _next(self, turn: Turn, ahead: int) -> int | None:
        """The token ``ahead`` places after the next one."""
        sequence = turn.sequence
        truth = self.truth[sequence.request.request_id]
        place = len(sequence.tokens) - len(sequence.request.prompt) + ahead
        return truth[place] if place < len(truth) else None

    def _depth(self, turn: Turn) -> int:
        heads: Any = turn.sequence.heads or turn.sequence.hydra
        return len(heads.weight) if turn.sequence.heads else int(heads.num_heads)

    def _asking(self, turn: Turn, path: Ranks) -> Turn:
        seen = copy(turn.sequence)
        seen.heads = self._comb(seen.heads, path)
        seen.hydra = self._comb(seen.hydra, path)
        return Turn(seen, turn.hidden, MAX_NODES - 1, self._depth(turn))

    def _comb(self, heads: Any, path: Ranks) -> Any:
        if heads is None:
            return None
        key = (id(heads), path)
        if key not in self._combs:
            inner = [path[:depth] for depth in range(1, len(path) + 1)]
            choices = (*inner, *((*path, rank) for rank in range(_RANKS)))
            self._combs[key] = replace(heads, choices=choices)
        return self._combs[key]


def _rank(offer: Offer, depth: int, token: int | None) -> int | None:
    """Where ``token`` stands among the offer's nodes below its only path of ``depth`` nodes."""
    if token is None:
        return None
    end = ROOT
    depths: list[int] = []
    level: list[int] = []
    for node, parent in enumerate(offer.parents):
        depths.append(1 if parent == ROOT else depths[parent] + 1)
        if depths[-1] == depth and depth:
            end = node
        elif depths[-1] == depth + 1:
            level.append(node)
    tokens = [offer.tokens[node] for node in level if offer.parents[node] == end]
    return tokens.index(token) if token in tokens else None


def probing(probes: dict[str, RankProbe]) -> Any:
    """A line-up with a probe, put into ``probes`` by its name, before every drafter of heads."""

    def make(loaded: Loaded, cost: StepCost) -> list[Drafter]:
        drafters = line_up(loaded, cost)
        probes.update({d.name: RankProbe(d) for d in drafters if d.name in ("medusa", "hydra")})
        return [probes.get(drafter.name, drafter) for drafter in drafters]

    return make


def ranks_of(probe: RankProbe, side: EngineSide, prompts: Sequence[Prompt]) -> list[list[Ranks]]:
    """Of each answer worth counting; ``side`` is of an engine with the probe."""
    plain = replace(side, speculation=Speculation(Method.NONE))
    truth = [answer.tokens for answer in answers(plain, prompts)]
    requests = list(side.requests(prompts))
    probe.truth = {r.request_id: t for r, t in zip(requests, truth, strict=True)}
    for first in range(0, len(requests), _AT_ONCE):
        drive(side.core, requests[first : first + _AT_ONCE])
    return [
        _padded(probe.ranks[request.request_id], len(tokens) - 1)
        for request, tokens in zip(requests, truth, strict=True)
        if worth_counting(tokens)
    ]


def _padded(ranks: list[Ranks], count: int) -> list[Ranks]:
    """Nobody is asked for a draft before the last token that may come."""
    return ranks + [()] * (count - len(ranks))
