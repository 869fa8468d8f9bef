"""What another token saves each sequence: less where a step gives it many already."""

from __future__ import annotations

from dataclasses import dataclass

from lorax_spec.engine.sequence import Sequence

#: Share of the newest step in a sequence's running mean of tokens, and in that of all steps' times.
_NEWEST, _NEWEST_OF_ALL = 0.25, 0.05


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
        self._stretch = 1.0

    def note_step(self, stretch: float) -> None:
        """A step took so many times as long as without drafts, drafting included."""
        self._stretch += _NEWEST_OF_ALL * (stretch - self._stretch)

    def saving(self, sequence: Sequence, turn: int) -> float:
        """What another token saves it, as a share of what it takes without drafts, at most 1."""
        return min(1.0, self._stretch / self.of(sequence, turn))

    def of(self, sequence: Sequence, turn: int) -> float:
        """Tokens that a step gives of late, at least 1; ``turn`` counts the steps."""
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
