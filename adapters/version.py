"""One content of one adapter, and where it lies now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from lorax_spec.adapters.source import Location
from lorax_spec.adapters.weights import AdapterWeights
from lorax_spec.errors import LoraxSpecError
from lorax_spec.types import AdapterChat, AdapterRef, DrafterCounts, LoadTimes, MergedRef

if TYPE_CHECKING:
    from lorax_spec.adapters.lease import Lease

Task = Literal["fetch", "read", "place"]
State = Literal["absent", "fetching", "host", "device", "evicting", "failed"]


@dataclass(eq=False)
class Version:
    """A running request keeps its version even when the folder has changed since.

    ``nbytes`` is an estimate from above until the version was read once.  ``retired`` means that
    no new lease gets it: it was unloaded, or its folder has changed.  ``fetched`` means that its
    files lie on this machine; ``task`` is what is being done with it.  ``medusa_heads`` counts the
    heads, be they Medusa or Hydra.  ``turn_began``: since when it has been run on without a break,
    in the clock's seconds; None while nobody does.  ``last_used``: when a request last began to
    run on it, in seconds since 1970; 0: none did.  ``guesses``: by drafter, those for requests on
    it that have ended; the step loop's.  ``chat`` is None until it was read once.
    """

    ref: AdapterRef | MergedRef
    location: Location
    nbytes: int
    pinned: bool = False
    retired: bool = False
    fetched: bool = False
    task: Task | None = None
    host: AdapterWeights | None = None
    device: AdapterWeights | None = None
    error: LoraxSpecError | None = None
    failed_at: float = 0.0
    kind: str = ""
    rank: int = 0
    medusa_heads: int = 0
    chat: AdapterChat | None = None
    leases: set[Lease] = field(default_factory=set)
    grants: int = 0
    times: LoadTimes = field(default_factory=LoadTimes)
    turn_began: float | None = None
    last_used: float = 0.0
    guesses: Mapping[str, DrafterCounts] = field(default_factory=dict)

    @property
    def loaded(self) -> bool:
        return self.host is not None or self.device is not None

    @property
    def absent(self) -> bool:
        """Whether something has to be begun before it can be had."""
        return not (self.loaded or self.task or self.error)

    @property
    def placing(self) -> bool:
        return self.task == "place"

    @property
    def idle(self) -> bool:
        """Whether it may be evicted from the device."""
        return self.device is not None and not self.grants and not self.pinned

    @property
    def state(self) -> State:
        if self.error is not None:
            return "failed"
        if self.retired:
            return "evicting"
        if self.device is not None:
            return "device"
        if self.host is not None:
            return "host"
        return "fetching" if self.task or self.leases else "absent"

    def took(self, **seconds: float) -> None:
        """Note what a stage of its load took, by its name in LoadTimes."""
        self.times = replace(self.times, **seconds)

    def describe(self, weights: AdapterWeights) -> None:
        """Remember what was read, for when the weights have gone."""
        self.nbytes = weights.nbytes
        self.kind = weights.kind
        self.rank = weights.lora.rank if weights.lora else 0
        self.medusa_heads = weights.heads.num_heads if weights.heads else 0
        self.chat = weights.chat
