"""How likely what followed before follows again, by how well the text before it agrees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

#: Depths that are told apart; deeper guesses count as the deepest of them.
DEPTHS = 8
#: Trials that a prior counts for, and that an estimate remembers.
_PRIOR, _MEMORY = 12, 256

#: Match lengths that are told apart: 1, 2, 3, 4, 5-7, 8-15, and 16 and more.
_BUCKETS = tuple(min(length - 1, 3) for length in range(1, 5)) + (4,) * 3 + (5,) * 8 + (6,)
#: Of several occurrences of the text's end, how many go on alike: one, at most half, more, and,
#: last, there is only one occurrence.
LONE, SOME, MOST, ONLY = range(4)

#: Chance of the first token by match length: rows as _BUCKETS, columns LONE to ONLY.
_FIRST = (
    (0.08, 0.20, 0.62, 0.34),
    (0.20, 0.28, 0.68, 0.72),
    (0.20, 0.38, 0.78, 0.73),
    (0.45, 0.50, 0.88, 0.76),
    (0.40, 0.60, 0.94, 0.88),
    (0.75, 0.75, 0.94, 0.96),
    (0.80, 0.85, 0.93, 0.92),
)
#: Chance of the tokens after it where those before them were right, at least.
_LATER = (0.50, 0.62, 0.70, 0.76, 0.80, 0.83, 0.85)
_LATER_AT_LEAST = (0.0, 0.60, 0.66, 0.72, 0.80, 0.90, 0.93)
#: As the rows of _FIRST, for a source that has been copied from so far.
_COPYING = (0.75, 0.78, 0.92, 0.92, 0.93, 0.97, 0.98)
#: Chance that the first, second, third and every later token of a change is its last.
_RESUMING = (0.29, 0.08, 0.06, 0.03)

#: Where a match stood: earlier in the text, just before its end, or in another request.
EARLIER, RECENT, POOLED = 0, 28, 56
_COPY = 84
#: The copy goes on after a change, as one token or an earlier change of the kind says.
BACK_IN_COPY = 91
_RESUME = 92


def match_kind(length: int, agreement: int, where: int = EARLIER) -> int:
    """A suffix of ``length`` tokens stood before."""
    return where + 4 * _BUCKETS[min(length, 16) - 1] + agreement


def copy_kind(length: int) -> int:
    """The last ``length`` tokens were copied from one place."""
    return _COPY + _BUCKETS[min(length, 16) - 1]


def resume_kind(changed: int) -> int:
    """The copy was left ``changed`` tokens ago and may go on behind what was replaced."""
    return _RESUME + min(changed, 4) - 1


def _chances(first: float, bucket: int) -> tuple[float, ...]:
    return (first, *(max(later, _LATER_AT_LEAST[bucket]) for later in _LATER))


def _at_first() -> Iterator[tuple[float, ...]]:
    """Chances of every kind before anything is learned."""
    for columns in (_FIRST, _FIRST, _FIRST):
        for bucket, row in enumerate(columns):
            yield from (_chances(first, bucket) for first in row)
    yield from (_chances(first, bucket) for bucket, first in enumerate(_COPYING))
    yield _chances(0.70, 4)
    yield from (_chances(first, 4) for first in _RESUMING)


_AT_FIRST = tuple(_at_first())


class MatchAcceptance:
    """``chances[kind][d]``: how likely token ``d + 1`` of a guess is right where all before it
    were; from DEPTHS on, as ``d = DEPTHS - 1``.  Learned from what followed, old trials fading."""

    def __init__(self) -> None:
        self.chances = [list(chances) for chances in _AT_FIRST]
        self._trials = [[_PRIOR] * DEPTHS for _ in self.chances]

    def learn(self, kind: int, guess: Sequence[int], truth: Sequence[int]) -> None:
        """Compare ``guess`` with the tokens that came, of which there may be more or fewer."""
        chances, trials = self.chances[kind], self._trials[kind]
        for depth, (guessed, token) in enumerate(zip(guess, truth, strict=False)):
            place = depth if depth < DEPTHS else DEPTHS - 1
            if trials[place] < _MEMORY:
                trials[place] += 1
            chances[place] += ((guessed == token) - chances[place]) / trials[place]
            if guessed != token:
                return
