"""What several workers say of one thing, added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest

from lorax_spec.types import AdapterInfo, DrafterCounts, SpeculationDetails

#: Where a worker holds an adapter, best place first.
_TIERS = ("device", "host", "disk")


def add_details(first: SpeculationDetails, second: SpeculationDetails) -> SpeculationDetails:
    """Of a request that moved from one worker to another."""
    if not first.forward_passes:
        return second
    return SpeculationDetails(
        first.drafted_tokens + second.drafted_tokens,
        first.accepted_tokens + second.accepted_tokens,
        first.forward_passes + second.forward_passes,
        _add_drafters(first.drafters, second.drafters),
    )


def add_infos(first: AdapterInfo, second: AdapterInfo) -> AdapterInfo:
    """Of an adapter that two workers hold: where it is nearest to running, its users summed."""
    nearest = min(first, second, key=lambda one: _TIERS.index(one.tier or "disk"))
    return replace(
        nearest,
        in_use=first.in_use + second.in_use,
        last_used=max(first.last_used, second.last_used),
        drafters=_add_drafters(first.drafters, second.drafters),
    )


def _add_drafters(
    first: Mapping[str, DrafterCounts], second: Mapping[str, DrafterCounts]
) -> dict[str, DrafterCounts]:
    nothing = DrafterCounts()
    return {
        name: _add_counts(first.get(name, nothing), second.get(name, nothing))
        for name in {**first, **second}
    }


def _add_counts(first: DrafterCounts, second: DrafterCounts) -> DrafterCounts:
    return DrafterCounts(
        first.drafted_tokens + second.drafted_tokens,
        first.accepted_tokens + second.accepted_tokens,
        _add_depths(first.drafted_by_depth, second.drafted_by_depth),
        _add_depths(first.accepted_by_depth, second.accepted_by_depth),
    )


def _add_depths(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip_longest(first, second, fillvalue=0))
