"""How much a second model's scores say about the first one's choice."""

from __future__ import annotations

import math

#: Bounds of the factor; beyond them nothing but the best score counts, or none does.
_LEAST, _MOST = 0.05, 20.0


class Sharpness:
    """A running factor ``k`` in ``softmax(k * scores)``, the chance of each token to be chosen.

    The score of a token is its logit plus, where the request samples, temperature times the noise
    of its position.  The model that decides takes the greatest score of its own, which is the same
    up to the two models' difference; ``k`` is one over the width of that, and so it is one number
    for requests of any temperature.  It moves by ``rate`` times hit minus prediction (Robbins and
    Monro 1951), and rests where the best guesses are right as often as they say.
    """

    def __init__(self, factor: float = 1.0, rate: float = 0.02) -> None:
        self.factor = factor
        self._rate = rate

    def note(self, predicted: float, hit: bool) -> None:
        """A best guess that claimed to be right with probability ``predicted``."""
        moved = self.factor * math.exp(self._rate * (hit - predicted))
        self.factor = min(_MOST, max(_LEAST, moved))
