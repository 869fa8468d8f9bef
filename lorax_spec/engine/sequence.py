"""One request on its way: its tokens, how far they are computed, what it may still do."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from lorax_spec.adapters.lease import Lease
from lorax_spec.adapters.weights import LoraWeights, MedusaHeads
from lorax_spec.engine.request import TokenRequest
from lorax_spec.engine.sampling import History, SamplingRule
from lorax_spec.speculation.prompt_lookup import LookupIndex
from lorax_spec.speculation.tree import EMPTY, DraftTree
from lorax_spec.types import DrafterCounts, SpeculationDetails, Timings


@dataclass
class Progress:
    """Counts and times of one request; times are ``time.monotonic`` seconds, 0 until they come."""

    arrived: float = field(default_factory=time.monotonic)
    adapter_ready: float = 0.0
    started: float = 0.0
    first_token: float = 0.0
    forward_passes: int = 0
    drafted: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)

    def speculation(self) -> SpeculationDetails:
        drafters = {
            name: DrafterCounts(count, self.accepted[name]) for name, count in self.drafted.items()
        }
        return SpeculationDetails(
            self.drafted.total(), self.accepted.total(), self.forward_passes, drafters
        )

    def timings(self, generated: int) -> Timings:
        now = time.monotonic()
        after_first = max(1, generated - 1)
        return Timings(
            queue=self.started - max(self.arrived, self.adapter_ready),
            adapter_load=max(0.0, self.adapter_ready - self.arrived),
            prefill=self.first_token - self.started,
            first_token=self.first_token - self.arrived,
            per_token=(now - self.first_token) / after_first,
            total=now - self.arrived,
        )


@dataclass(eq=False)
class Sequence:
    """Tokens known so far, of which the first ``computed`` have their keys and values cached.

    ``blocks`` hold the cache for at least ``computed`` tokens; node ``i`` of ``draft`` is computed
    into the slot ``len(tokens) + i`` until it is accepted or forgotten.
    """

    request: TokenRequest
    lease: Lease
    rule: SamplingRule
    tokens: list[int]
    #: No token is generated at this position or beyond.
    limit: int
    #: Its adapters have arrived and are bound below; it may run.
    ready: bool = False
    lora: LoraWeights | None = None
    heads: MedusaHeads | None = None
    #: What shaped the keys and values, for the prefix cache.
    identity: str = ""
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    published: int = 0
    draft: DraftTree = EMPTY
    lookup: LookupIndex | None = None
    history: History | None = None
    prefill_logprobs: list[float] | None = None
    progress: Progress = field(default_factory=Progress)

    @property
    def pending(self) -> int:
        """Known tokens that wait to be computed; 1 for a sequence that decodes."""
        return len(self.tokens) - self.computed

    @property
    def prompt_length(self) -> int:
        return len(self.request.prompt)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def draft_room(self) -> int:
        """How deep a draft may go: the last token needs no guess."""
        return self.limit - len(self.tokens) - 1
