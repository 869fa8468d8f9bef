"""N-grams seen or guessed so far, by the tokens they begin with.

(The n-gram pool of Fu, Bailis, Stoica and Zhang 2024, "Break the Sequential Dependency of LLM
Inference Using Lookahead Decoding", arXiv 2402.02057; here also by the two tokens they follow.)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

#: Where a text is long, only this much of its end is taken in at once.
LONGEST_TEXT = 4096

Continuation = tuple[int, ...]


class NgramPool:
    """What may follow a token, or a pair of tokens: continuations of ``length`` tokens.

    Holds at most ``keys`` beginnings, those unused for longest leave first, and of each the
    ``width`` continuations that came last.
    """

    def __init__(self, length: int, *, keys: int = 4096, width: int = 8) -> None:
        if min(length, keys, width) < 1:
            raise ValueError(f"length {length}, keys {keys} and width {width} must be positive")
        self.length = length
        self._keys = keys
        self._width = width
        self._after: OrderedDict[tuple[int, ...], list[Continuation]] = OrderedDict()
        self._read = 0

    def __len__(self) -> int:
        """Continuations held; one that is known by a pair and by a token counts twice."""
        return sum(map(len, self._after.values()))

    def add(self, beginning: Sequence[int], continuation: Sequence[int]) -> None:
        """Note that ``continuation``, ``length`` tokens, followed ``beginning``, of which the last
        two tokens count."""
        held = tuple(continuation)
        if len(held) != self.length:
            raise ValueError(f"a continuation of {len(held)} tokens, not {self.length}")
        for count in range(1, min(2, len(beginning)) + 1):
            key = tuple(beginning[len(beginning) - count :])
            known = self._after.setdefault(key, [])
            if held in known:
                known.remove(held)
            known.insert(0, held)
            del known[self._width :]
            self._after.move_to_end(key)
        while len(self._after) > self._keys:
            self._after.popitem(last=False)

    def read(self, tokens: Sequence[int]) -> None:
        """Take in what is new of ``tokens``, the whole text so far."""
        first = max(self._read, len(tokens) - LONGEST_TEXT, self.length + 1)
        for end in range(first, len(tokens) + 1):
            start = end - self.length
            self.add(tokens[max(0, start - 2) : start], tokens[start:end])
        self._read = max(self._read, len(tokens) + 1)

    def after(self, beginning: Sequence[int]) -> tuple[list[Continuation], list[Continuation]]:
        """What followed the last two tokens of ``beginning``, and what followed its last token and
        not both; the latest first."""
        pair = self._after.get(tuple(beginning[-2:]), []) if len(beginning) > 1 else []
        single = self._after.get(tuple(beginning[-1:]), [])
        return list(pair), [one for one in single if one not in pair]
