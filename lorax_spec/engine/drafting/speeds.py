"""How many tokens a step gives each sequence of late: what another one saves depends on it."""

from __future__ import annotations

from dataclasses import dataclass

from lorax_spec.engine.sequence import Sequence

#: Share of the newest step in the running mean.
_NEWEST = 0.25


@dataclass
class _Speed:
    rate: float
    tokens: int
    turn: int


class Speeds:
    """A new sequence is taken for one that nobody guesses yet: what others got says little of it,
    and to ask once too often costs less than to ask too late."""

    def __init__(self) -> None:
        self._speeds: dict[Sequence, _Speed] = {}

    def of(self, sequence: Sequence, turn: int) -> float:
        """Tokens that a step gives, at least 1; ``turn`` counts the steps."""
        count = len(sequence.tokens)
        speed = self._speeds.get(sequence)
        if speed is None:
            speed = self._speeds[sequence] = _Speed(1.0, count, turn)
        elif (steps := turn - speed.turn) > 0:
            newest = max(1.0, (count - speed.tokens) / steps)
            speed.rate += (1.0 - (1.0 - _NEWEST) ** steps) * (newest - speed.rate)
            speed.tokens, speed.turn = count, turn
        return speed.rate

    def forget(self, sequence: Sequence) -> None:
        self._speeds.pop(sequence, None)
