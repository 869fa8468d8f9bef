"""Prompt lookup: draft what followed the same words earlier in this sequence.

(Saxena 2023, "Prompt Lookup Decoding"; here with the longest match, the most recent occurrence,
and an index that grows with the sequence instead of a search each step.)
"""

from __future__ import annotations

from collections.abc import Sequence

from lorax_spec.speculation.tree import EMPTY, DraftTree, chain

DRAFTER = "prompt_lookup"
LONGEST_MATCH = 4


class LookupIndex:
    """Where each n-gram of a growing token list ended last, for n up to LONGEST_MATCH.

    ``extend`` costs constant time per token, ``continuation`` constant time per draft.
    """

    def __init__(self) -> None:
        self._ends: list[dict[tuple[int, ...], int]] = [{} for _ in range(LONGEST_MATCH)]
        self._indexed = 0

    def extend(self, tokens: Sequence[int]) -> None:
        """Index ``tokens``, a continuation of what was indexed before.

        The n-grams that end at the very last token are left for the next call: they are the ones
        to look up, and would find themselves.
        """
        for end in range(self._indexed, len(tokens) - 1):
            for n in range(1, min(LONGEST_MATCH, end + 1) + 1):
                self._ends[n - 1][tuple(tokens[end + 1 - n : end + 1])] = end
        self._indexed = max(self._indexed, len(tokens) - 1)

    def continuation(self, tokens: Sequence[int], count: int) -> Sequence[int]:
        """Up to ``count`` tokens that followed the longest suffix of ``tokens`` seen before."""
        for n in range(min(LONGEST_MATCH, len(tokens)), 0, -1):
            end = self._ends[n - 1].get(tuple(tokens[len(tokens) - n :]))
            if end is not None:
                return _cycled(tokens, end + 1, count)
        return ()


def draft(index: LookupIndex, tokens: Sequence[int], count: int) -> DraftTree:
    """A chain of exactly ``count`` tokens where anything matches, else nothing."""
    index.extend(tokens)
    continuation = index.continuation(tokens, count)
    return chain(continuation, DRAFTER) if continuation else EMPTY


def _cycled(tokens: Sequence[int], start: int, count: int) -> list[int]:
    """``count`` tokens from ``start``; past the end, the draft reads on in itself.

    A match that overlaps the suffix means the text repeats with that period.
    """
    drafted: list[int] = []
    for offset in range(count):
        at = start + offset
        drafted.append(tokens[at] if at < len(tokens) else drafted[at - len(tokens)])
    return drafted
