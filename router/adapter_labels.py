"""Which adapters get a label of their own, so that figures stay few however many there are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from lorax_spec.types import BASE_MODEL

#: Stand for all adapters without a label of their own, and for all that were merged for a request.
OTHER, MERGED = "other", "merged"

#: Adapters without a label whose uses are remembered, for each with one.
_CANDIDATES = 8
#: Who takes another's label has been used so many times as often, and so many times more.
_FACTOR, _MARGIN = 2.0, 8
#: Uses, for each label, after which old ones count half.
_MEMORY = 64


class AdapterLabels:
    """Gives labels to at most ``most`` adapters, those used most of late.

    An adapter that is used far more than the least used of them takes its label, and ``on_drop``
    is told which label's figures are to be forgotten.  The base model and merged adapters have
    labels beside those.
    """

    def __init__(self, most: int, on_drop: Callable[[str], None]) -> None:
        self._most = most
        self._on_drop = on_drop
        self._labelled: dict[str, float] = {}
        self._candidates: OrderedDict[str, float] = OrderedDict()
        self._uses = 0

    def look(self, adapter_id: str) -> str:
        """The adapter's label as things stand; empty is the base model."""
        if not adapter_id or adapter_id == BASE_MODEL:
            return BASE_MODEL
        return adapter_id if adapter_id in self._labelled else OTHER

    def use(self, adapter_id: str) -> str:
        """Its label, after it was used once more.

        Only for adapters that there are: callers name what they like.
        """
        if not adapter_id or adapter_id == BASE_MODEL:
            return BASE_MODEL
        self._forget_slowly()
        if adapter_id in self._labelled:
            self._labelled[adapter_id] += 1
        elif len(self._labelled) < self._most:
            self._labelled[adapter_id] = 1.0
        else:
            self._stand(adapter_id)
        return self.look(adapter_id)

    def _stand(self, adapter_id: str) -> None:
        """Count a candidate, which may take the place of the least used."""
        uses = self._candidates.pop(adapter_id, 0.0) + 1
        least = min(self._labelled, key=self._labelled.__getitem__, default=None)
        if least is not None and uses > _FACTOR * self._labelled[least] + _MARGIN:
            self._candidates[least] = self._labelled.pop(least)
            self._labelled[adapter_id] = uses
            self._on_drop(least)
        else:
            self._candidates[adapter_id] = uses
        if len(self._candidates) > _CANDIDATES * self._most:
            self._candidates.popitem(last=False)

    def _forget_slowly(self) -> None:
        self._uses += 1
        if self._uses >= _MEMORY * max(1, self._most):
            self._uses = 0
            for counts in (self._labelled, self._candidates):
                for name in counts:
                    counts[name] /= 2
