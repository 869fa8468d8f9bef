"""How a drafter's guesses turn out, against what it said of them.

Guesses are judged by the tokens that came, whether they were verified or only offered: a guess for
the very next token is always judged, one further ahead where all before it was right.
"""

from __future__ import annotations

from collections.abc import Sequence

from lorax_spec.speculation.offer import Offer
from lorax_spec.speculation.tree import ROOT

#: Depths that are told apart; deeper ones count as the deepest.
DEPTHS = 8
#: The most a probability may become: nothing is certain.
SUREST = 0.98


class Acceptance:
    """Observed over predicted acceptance by depth, recent turns counting more.

    ``correction(depth)`` is ``(w c + hits) / (w + predicted)`` with decayed sums of both and
    ``c`` the correction of ``prior``, an Acceptance over more sequences (1 without one).
    """

    def __init__(
        self, prior: Acceptance | None = None, *, decay: float = 0.9, weight: float = 1.5
    ) -> None:
        self._prior = prior
        self._decay = decay
        self._weight = weight
        self._hits = [0.0] * DEPTHS
        self._predicted = [0.0] * DEPTHS
        self._corrections: list[float] | None = None

    def note(self, depth: int, predicted: float, hit: bool) -> None:
        """A level of guesses worth ``predicted`` together, ``depth`` tokens ahead (1 at least)."""
        if self._prior is not None:
            self._prior.note(depth, predicted, hit)
        level = depth - 1 if depth < DEPTHS else DEPTHS - 1
        self._hits[level] = self._hits[level] * self._decay + hit
        self._predicted[level] = self._predicted[level] * self._decay + predicted
        self._corrections = None

    def correction(self, depth: int) -> float:
        return self.corrections()[min(depth, DEPTHS) - 1]

    def corrections(self) -> list[float]:
        """Of every depth.  They are found anew where this sequence has something new to say: the
        prior moves slowly."""
        if self._corrections is None:
            weight = self._weight
            expected = [1.0] * DEPTHS if self._prior is None else self._prior.corrections()
            self._corrections = [
                (weight * prior + hits) / (weight + predicted)
                for prior, hits, predicted in zip(
                    expected, self._hits, self._predicted, strict=True
                )
            ]
        return self._corrections

    def judge(self, offer: Offer, tokens: Sequence[int]) -> None:
        """Compare an offer with ``tokens``, which came where it guessed."""
        if offer.is_chain:
            self._judge_chain(offer, tokens)
            return
        at, first, count = ROOT, 0, len(offer)
        for depth, token in enumerate(tokens, 1):
            predicted, found = 0.0, None
            for node in range(first, count):
                if offer.parents[node] == at:
                    predicted += offer.probabilities[node]
                    if offer.tokens[node] == token:
                        found = node
            if predicted == 0.0:
                return
            self.note(depth, predicted, found is not None)
            if found is None:
                return
            at, first = found, found + 1

    def _judge_chain(self, offer: Offer, tokens: Sequence[int]) -> None:
        for depth, (token, guess, probability) in enumerate(
            zip(tokens, offer.tokens, offer.probabilities, strict=False), 1
        ):
            self.note(depth, probability, token == guess)
            if token != guess:
                return

    def corrected(self, offer: Offer, kept: float = 1.0) -> Offer:
        """The offer with its probabilities put right; ``kept``: the share of what it promised that
        what was drafted of earlier ones brought."""
        factors = self.corrections()
        if offer.is_chain:
            deeper = max(0, len(offer) - DEPTHS)
            by_node = [factors[0] * kept, *factors[1 : len(offer)], *factors[-1:] * deeper]
        else:
            depths: list[int] = []
            for parent in offer.parents:
                depths.append(0 if parent == ROOT else depths[parent] + 1)
            by_depth = [factors[0] * kept, *factors[1:], *factors[-1:] * max(depths)]
            by_node = [by_depth[depth] for depth in depths]
        probabilities = tuple(
            [
                p if (p := probability * factor) < SUREST else SUREST
                for probability, factor in zip(offer.probabilities, by_node, strict=True)
            ]
        )
        return Offer(offer.tokens, offer.parents, probabilities, offer.drafters, offer.whole)


class Promises:
    """How much of what was promised of drafted nodes came.

    Of many estimates those that are too high are the likeliest to be chosen, so drafts bring less
    than was expected of them even where estimates are right on the whole (the winner's curse).

    ``kept`` is ``(t k + came) / (t + promised)``, at most 1, with fading sums of both, ``t`` nodes
    of trust, and ``k`` the share that is kept by ``prior``, the Promises of more sequences (1
    without one).
    """

    def __init__(
        self, prior: Promises | None = None, *, trusted: float = 4.0, fading: float = 0.01
    ) -> None:
        self._prior = prior
        self._trusted, self._fading = trusted, fading
        self._promised = self._came = 0.0

    @property
    def kept(self) -> float:
        usually = 1.0 if self._prior is None else self._prior.kept
        came = self._trusted * usually + self._came
        return min(1.0, came / (self._trusted + self._promised))

    def note(self, promised: float, came: float) -> None:
        """A draft of which ``promised`` nodes were expected to be right, and ``came`` were."""
        if self._prior is not None:
            self._prior.note(promised, came)
        self._fade()
        self._promised += promised
        self._came += came

    def rest(self, turns: int = 1) -> None:
        """Nothing was drafted for so many turns.  What was seen counts less for it, by every turn
        as by a draft: who is distrusted drafts nothing, and could not show that the distrust is
        wrong.  For the prior the turns of one are one."""
        if self._prior is not None:
            self._prior.rest()
        self._fade(turns)

    def _fade(self, turns: int = 1) -> None:
        left = (1.0 - self._fading) ** turns
        self._promised *= left
        self._came *= left
