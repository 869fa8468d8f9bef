"""Where the end of a growing text stood before: the index under prompt lookup.

The occurrences of every token, and of every pair of tokens, are chained from the latest back, so
that a match costs a few steps along a chain and never a scan of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

#: Stands before every document of an index; equals no token.
BORDER = -1
#: Room for a token in the key of a pair.
_SHIFT = 20
#: With fewer occurrences of the last pair, those of the last token alone are tried as well.
_FEW_PAIRS = 3

_by_length = itemgetter(0)


class LookupIndex:
    """Documents, of which the last may grow, and where their tokens and pairs of tokens ended.

    ``extend`` costs constant time for each token, ``matches`` at most ``2 * breadth`` comparisons
    of at most ``longest`` tokens.  A token takes about 150 bytes.
    """

    def __init__(self, shortest: int = 1, longest: int = 16, breadth: int = 6) -> None:
        self.text: list[int] = [BORDER]
        self._shortest, self._longest, self._breadth = shortest, longest, breadth
        self._last: dict[int, int] = {}
        self._last_pair: dict[int, int] = {}
        # [end]: the end before it of the same token, or pair; 0, the first border, for none.
        self._before = [0]
        self._pair_before = [0]

    def __len__(self) -> int:
        return len(self.text)

    def begin(self) -> None:
        """End the last document: no match and no continuation runs from it into the next."""
        if self.text[-1] != BORDER:
            self.text.append(BORDER)
            self._index()

    def extend(self, tokens: Sequence[int]) -> None:
        """Append ``tokens``, each at least 0, to the last document."""
        self.text += tokens
        self._index()

    def _index(self) -> None:
        """All but the last token, which is what is looked up, and would find itself."""
        text, before, pair_before = self.text, self._before, self._pair_before
        last, last_pair = self._last, self._last_pair
        start = len(before)
        previous = text[start - 1]
        for end, token in enumerate(text[start:-1], start):
            pair = previous << _SHIFT | token
            before.append(last.get(token, 0))
            pair_before.append(last_pair.get(pair, 0))
            last[token] = last_pair[pair] = end
            previous = token

    def matches(self, tail: Sequence[int]) -> list[tuple[int, int]]:
        """(tokens that match the end of ``tail``, index in ``text`` of what followed), the longest
        match first, and of equally long ones the most recent.

        ``tail`` is this index's own text, or another that begins with a border.  Only the latest
        ``breadth`` occurrences of its last pair are compared and, where those are few, the
        latest of its last token.
        """
        text, longest, shortest = self.text, self._longest, self._shortest
        token, second = tail[-1], tail[-2] if longest > 1 else BORDER
        found: list[tuple[int, int]] = []
        end = 0 if second == BORDER else self._last_pair.get(second << _SHIFT | token, 0)
        left = self._breadth
        while end and left:
            length = 2
            while (
                length < longest
                and (at := text[end - length]) == tail[-1 - length]
                and at != BORDER
            ):
                length += 1
            if length >= shortest:
                found.append((length, end + 1))
            end = self._pair_before[end]
            left -= 1
        if len(found) > 1:
            found.sort(key=_by_length, reverse=True)
        if shortest == 1 and len(found) < _FEW_PAIRS:
            end, left = self._last.get(token, 0), self._breadth
            while end and left:
                if second == BORDER or text[end - 1] != second:
                    found.append((1, end + 1))
                end = self._before[end]
                left -= 1
        return found
