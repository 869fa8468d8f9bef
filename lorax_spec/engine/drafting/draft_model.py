"""A smaller model as a drafter: it writes ahead, and the large one reads what it wrote.

Speculative decoding as first described (Leviathan et al. 2023, arXiv 2211.17192; Chen et al. 2023,
arXiv 2302.01318), with one difference: the large model's choice is a function of its logits and
the position's own noise, so the small one ranks its guesses with the same noise added (Daliri,
Musco, Suresh 2024), and what it thinks likeliest under that noise is what it goes on with.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from collections.abc import Sequence as Rows

import torch

from lorax_spec.engine.blocks import BlockPool
from lorax_spec.engine.drafting.coupled_scores import coupled_scores
from lorax_spec.engine.drafting.drafter import Outcome, Turn
from lorax_spec.engine.drafting.eligible import DRAFT_MODEL
from lorax_spec.engine.drafting.shadows import Shadow, Shadows
from lorax_spec.engine.drafting.sharpness import Sharpness
from lorax_spec.engine.model import LanguageModel
from lorax_spec.engine.scheduler import Scheduled
from lorax_spec.engine.sequence import Sequence
from lorax_spec.speculation.offer import NOTHING, Offer
from lorax_spec.speculation.tree import EMPTY, ROOT

#: Guesses offered for each token ahead; the best of them is gone on with.
CANDIDATES = 3
#: Tokens computed in one call for sequences whose last ones are not cached.
CATCH_UP = 512
_UNLIKELIEST = 1e-12

#: What a pass of the small model over so many rows costs, in passes of the large one.
Price = Callable[[int], float]


def free_of_charge(rows: int) -> float:
    """As far as a draft may go, it goes."""
    return 0.0


class DraftModelDrafter:
    """Guesses from a small model with a paged cache of its own, for all sequences at a time."""

    name = DRAFT_MODEL

    def __init__(
        self,
        model: LanguageModel,
        blocks: int,
        price: Price = free_of_charge,
        sharpness: Sharpness | None = None,
        *,
        catch_up: int = CATCH_UP,
    ) -> None:
        """``model``: with its cache of ``blocks`` blocks allocated."""
        self.shadows = Shadows(BlockPool(blocks))
        self.sharpness = sharpness or Sharpness()
        self._model = model
        self._price = price
        self._catch_up = catch_up
        self._most = int(getattr(model.text_config, "max_position_embeddings", 1 << 30))

    @torch.inference_mode()
    def offer(self, turns: Rows[Turn]) -> list[Offer]:
        """Chains with a few side branches; NOTHING for a sequence that is not caught up yet."""
        plan, chains = self._open(turns)
        offers = [NOTHING] * len(turns)
        growing = chains
        while plan:
            logits = self._forward(plan)
            self._grow(growing, logits)
            growing = [chain for chain in growing if chain.may_go_on]
            if not self._worth_going_on(growing, chains):
                break
            plan = [
                Scheduled(row, len(row.tokens) - 1, 1, EMPTY)
                for row in (chain.shadow.row for chain in growing)
            ]
        for chain in chains:
            offers[chain.index] = chain.offer(self.name)
        return offers

    def observe(self, outcomes: Rows[Outcome]) -> None:
        """Guesses are judged by the tokens that came, verified or not."""

    def forget(self, sequence: Sequence) -> None:
        self.shadows.forget(sequence)

    def _open(self, turns: Rows[Turn]) -> tuple[list[Scheduled], list[_Chain]]:
        """Rows that bring sequences up to date, those with the least to do first, and a chain for
        each that will be."""
        waiting: list[tuple[int, int, Shadow]] = []
        for index, turn in enumerate(turns):
            if min(turn.nodes, turn.depth, self._room(turn)) > 0:
                shadow = self.shadows.of(turn.sequence)
                for sure, right in shadow.follow(turn.sequence.tokens):
                    self.sharpness.note(sure, right)
                waiting.append((shadow.row.pending, index, shadow))
        plan: list[Scheduled] = []
        chains: list[_Chain] = []
        busy = {turn.sequence for turn in turns}
        left = self._catch_up
        for _, index, shadow in sorted(waiting, key=lambda one: one[:2]):
            turn, row = turns[index], shadow.row
            depth = min(turn.depth, self._room(turn))
            # The last guess is not computed, so it needs no place.
            if not self.shadows.make_room(turn.sequence, len(row.tokens) + depth - 1, busy):
                continue
            if count := min(row.pending, left):
                left -= count
                plan.append(Scheduled(row, row.computed, count, EMPTY))
                if plan[-1].samples:
                    chains.append(_Chain(index, turn, shadow, depth))
        return plan, chains

    def _room(self, turn: Turn) -> int:
        """How far ahead the small model's positions reach."""
        return self._most - len(turn.sequence.tokens)

    def _forward(self, plan: list[Scheduled]) -> torch.Tensor:
        """float32 [chains, vocabulary]: the logits after every chain's last token."""
        batch = self._model.lay_out(plan)
        for scheduled in plan:
            scheduled.sequence.computed = scheduled.start + scheduled.count
        return self._model.forward(batch)[1]

    def _grow(self, chains: list[_Chain], logits: torch.Tensor) -> None:
        """One more level of guesses for every chain."""
        if not chains:
            return
        scores = coupled_scores(logits, [chain.shadow for chain in chains])
        likely = (scores * self.sharpness.factor).softmax(-1)
        values, tokens = likely.topk(min(CANDIDATES, likely.shape[-1]))
        values = values.clamp(_UNLIKELIEST, 1.0)
        for chain, ids, probabilities in zip(chains, tokens.tolist(), values.tolist(), strict=True):
            chain.grow(ids, probabilities)

    def _worth_going_on(self, growing: list[_Chain], chains: list[_Chain]) -> bool:
        """Whether one more pass should bring more tokens than the large model makes meanwhile."""
        if not growing or any(chain.given for chain in growing):
            return bool(growing)
        gain = sum(chain.next_gain for chain in growing)
        return gain > self._price(len(growing)) * sum(chain.expected for chain in chains)


class _Chain:
    """A turn's offer on its way: a chain with the candidates beside each of its nodes."""

    def __init__(self, index: int, turn: Turn, shadow: Shadow, depth: int) -> None:
        self.index = index
        self.shadow = shadow
        #: The request said how many nodes it wants, and gets them whatever they cost.
        self.given = turn.sequence.request.speculation.num_tokens is not None
        self._nodes = turn.nodes
        self._depth_left = depth
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._probabilities: list[float] = []
        self._reach: list[float] = []
        #: How likely all of the chain so far is right, and the node it ends in.
        self._right = 1.0
        self._end = ROOT
        self._length = 0

    def grow(self, ids: list[int], probabilities: list[float]) -> None:
        """Add the guesses after the chain, likeliest first, and go on to the first."""
        end = len(self._tokens)
        for token, probability in zip(ids, probabilities, strict=True):
            self._tokens.append(token)
            self._parents.append(self._end)
            self._probabilities.append(probability)
            self._reach.append(self._right * probability)
        self.shadow.guess(ids[0], probabilities[0])
        self._end, self._right = end, self._reach[end]
        self._length += 1
        self._depth_left -= 1

    @property
    def may_go_on(self) -> bool:
        """Whether a further guess could be among the nodes that are of use."""
        if self._depth_left == 0:
            return False
        if len(self._reach) < self._nodes:
            return True
        return self._right > heapq.nlargest(self._nodes, self._reach)[-1]

    @property
    def expected(self) -> float:
        """Tokens of the step that verifies the offer so far."""
        return 1.0 + sum(heapq.nlargest(self._nodes, self._reach))

    @property
    def next_gain(self) -> float:
        """How likely a further guess is accepted, if it is as sure as those so far."""
        sureness: float = self._right ** (1 / self._length)
        return self._right * sureness

    def offer(self, drafter: str) -> Offer:
        return Offer(
            tuple(self._tokens),
            tuple(self._parents),
            tuple(self._probabilities),
            (drafter,) * len(self._tokens),
        )
