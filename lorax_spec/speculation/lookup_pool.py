"""What finished requests said, for those that come after them and may know of it.

(After Oliaro, Jia, Campos and Qiao 2025, "SuffixDecoding"; here with bounded memory, and never
beyond a scope.)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

from lorax_spec.speculation.lookup_index import LookupIndex

#: Scopes that are remembered.
_SCOPES = 64


class LookupPool:
    """Texts by scope: at most ``tokens`` of each, and of the ``scopes`` used last.

    A scope says who may see a text; texts are searched within their own scope only.  Each keeps
    two generations: once the younger holds half of ``tokens``, it takes the place of the elder.
    """

    def __init__(
        self, tokens: int, *, shortest: int = 1, longest: int = 16, scopes: int = _SCOPES
    ) -> None:
        self._most = tokens // 2
        self._scopes = scopes
        self._shortest, self._longest = shortest, longest
        self._generations: OrderedDict[Hashable, list[LookupIndex]] = OrderedDict()

    def __len__(self) -> int:
        """Tokens held, and the borders between texts."""
        return sum(len(index) for held in self._generations.values() for index in held)

    def remember(self, scope: Hashable, tokens: Sequence[int]) -> None:
        """Add a finished text; of one longer than a generation, its end."""
        room = self._most - 2
        if room <= 0:
            return
        tokens = tokens[-room:]
        held = self._generations.setdefault(scope, [self._new()])
        if len(held[0]) + len(tokens) + 1 > self._most:
            held[:] = [self._new(), held[0]]
        held[0].extend(tokens)
        held[0].begin()
        self._generations.move_to_end(scope)
        while len(self._generations) > self._scopes:
            self._generations.popitem(last=False)

    def of(self, scope: Hashable) -> Sequence[LookupIndex]:
        """The texts of a scope, the younger generation first."""
        held = self._generations.get(scope)
        if held is None:
            return ()
        self._generations.move_to_end(scope)
        return held

    def _new(self) -> LookupIndex:
        return LookupIndex(self._shortest, self._longest)
