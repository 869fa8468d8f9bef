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

    def note(self, depth: int, predicted: float, hit: bool) -> None:
        """A level of guesses worth ``predicted`` together, ``depth`` tokens ahead (1 at least)."""
        if self._prior is not None:
            self._prior.note(depth, predicted, hit)
        level = min(depth, DEPTHS) - 1
        self._hits[level] = self._hits[level] * self._decay + hit
        self._predicted[level] = self._predicted[level] * self._decay + predicted

    def correction(self, depth: int) -> float:
        level = min(depth, DEPTHS) - 1
        expected = 1.0 if self._prior is None else self._prior.correction(depth)
        observed = self._weight * expected + self._hits[level]
        return observed / (self._weight + self._predicted[level])

    def judge(self, offer: Offer, tokens: Sequence[int]) -> None:
        """Compare an offer with ``tokens``, which came where it guessed."""
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

    def corrected(self, offer: Offer) -> Offer:
        """The offer with its probabilities put right."""
        depths: list[int] = []
        factors = [self.correction(depth + 1) for depth in range(DEPTHS)]
        probabilities = []
        for parent, probability in zip(offer.parents, offer.probabilities, strict=True):
            depth = 1 if parent == ROOT else depths[parent] + 1
            depths.append(depth)
            factor = factors[min(depth, DEPTHS) - 1]
            probabilities.append(min(SUREST, probability * factor))
        return Offer(offer.tokens, offer.parents, tuple(probabilities), offer.drafters, offer.whole)
