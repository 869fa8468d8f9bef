"""What was guessed for requests that have ended."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from lorax_spec.adapters.version import Version
from lorax_spec.speculation.guesses import total
from lorax_spec.types import DrafterCounts

Counts = Mapping[str, DrafterCounts]

_ADAPTERS = 1024


class Tally:
    """By adapter and drafter; of the adapters that were used last, since callers name them.

    Versions keep their own, which nobody sees who may not see the version.
    """

    def __init__(self, most: int = _ADAPTERS) -> None:
        self._most = most
        self._by_adapter: OrderedDict[str, Counts] = OrderedDict()

    def note(self, adapter_id: str, versions: Iterable[Version], counts: Counts) -> None:
        """Add what was guessed for a request; ``adapter_id`` is empty for the base model."""
        if not counts:
            return
        self._by_adapter[adapter_id] = _summed(self._by_adapter.get(adapter_id, {}), counts)
        self._by_adapter.move_to_end(adapter_id)
        if len(self._by_adapter) > self._most:
            self._by_adapter.popitem(last=False)
        for version in versions:
            version.guesses = _summed(version.guesses, counts)  # replaced: others read it

    def figures(self) -> dict[tuple[str, str], DrafterCounts]:
        """By adapter id and drafter."""
        return {
            (adapter_id, drafter): one
            for adapter_id, counts in self._by_adapter.items()
            for drafter, one in counts.items()
        }


def _summed(first: Counts, second: Counts) -> Counts:
    nothing = DrafterCounts()
    return {
        name: total((first.get(name, nothing), second.get(name, nothing)))
        for name in {**first, **second}
    }
