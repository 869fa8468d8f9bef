"""Leases that wait until it is known what their refs mean.

Plain state without threads: the manager holds a lock around every call, and asks the sources.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lorax_spec.adapters.lease import Lease
from lorax_spec.adapters.merging import MergeRecipe
from lorax_spec.adapters.source import MERGED, Location, scope_of
from lorax_spec.errors import LoraxSpecError
from lorax_spec.types import AdapterRef, MergedRef

Ref = AdapterRef | MergedRef


def parts_of(ref: Ref) -> tuple[AdapterRef, ...]:
    """The adapters that ``ref`` names."""
    return ref.parts if isinstance(ref, MergedRef) else (ref,)


def located(ref: Ref, found: Mapping[AdapterRef, Location]) -> Location:
    """What ``ref`` means, by what its parts mean."""
    if isinstance(ref, AdapterRef):
        return found[ref]
    parts = tuple(found[part] for part in ref.parts)
    recipe = MergeRecipe(ref.method, ref.weights, ref.density, ref.majority_sign_method)
    # Only who may read all parts of other scopes finds them together.
    scope = scope_of("\0".join(part.scope for part in parts if part.scope))
    return Location(MERGED, ref.adapter_id, "", Path(), (), scope=scope, parts=parts, recipe=recipe)


@dataclass(frozen=True)
class Asked:
    """A lease that was asked for, and what is known of its refs."""

    lease: Lease
    refs: tuple[Ref, ...]
    found: dict[AdapterRef, Location | None]

    def locations(self) -> list[Location]:
        """What the refs mean, in their order; all of them are known."""
        known = {ref: location for ref, location in self.found.items() if location is not None}
        return [located(ref, known) for ref in self.refs]


class LookUps:
    """Each ref is looked up once at a time, for all leases that wait for it."""

    def __init__(self) -> None:
        self._asked: dict[Lease, Asked] = {}
        self._waiting: dict[AdapterRef, dict[Lease, None]] = {}
        self._jobs: list[AdapterRef] = []
        self._settled = False

    def add(self, asked: Asked) -> None:
        """Let a lease wait for those of its refs that are not known."""
        self._asked[asked.lease] = asked
        for ref, location in asked.found.items():
            if location is None:
                if ref not in self._waiting:
                    self._jobs.append(ref)
                self._waiting.setdefault(ref, {})[asked.lease] = None

    def take_jobs(self) -> list[AdapterRef]:
        """What is to be looked up now; each is handed out once."""
        jobs, self._jobs = self._jobs, []
        return jobs

    def take_settled(self) -> bool:
        """Whether a lease failed since the last call."""
        settled, self._settled = self._settled, False
        return settled

    def found(self, ref: AdapterRef, location: Location) -> list[Asked]:
        """``ref`` means this: those whose refs are all known now, who wait here no more."""
        complete = []
        for lease in self._waiting.pop(ref, {}):
            asked = self._asked[lease]
            asked.found[ref] = location
            if None not in asked.found.values():
                complete.append(self._asked.pop(lease))
        return complete

    def failed(self, ref: AdapterRef, error: LoraxSpecError) -> None:
        """``ref`` means nothing: nor do the leases that wait for it."""
        self._fail(self._waiting.pop(ref, {}), error)

    def fail_all(self, error: LoraxSpecError) -> None:
        self._fail(tuple(self._asked), error)

    def drop(self, lease: Lease) -> bool:
        """Forget a lease; False where it does not wait here.

        The look-up goes on, and whoever asks for the same again meanwhile waits for it.
        """
        asked = self._asked.pop(lease, None)
        for ref in asked.found if asked else ():
            self._waiting.get(ref, {}).pop(lease, None)
        return asked is not None

    def _fail(self, leases: Iterable[Lease], error: LoraxSpecError) -> None:
        for lease in leases:
            self.drop(lease)
            lease.settle(error)
            self._settled = True
