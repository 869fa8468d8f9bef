"""One request on its way: its tokens, how far they are computed, what it may still do."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lorax_spec.adapters.lease import Lease
from lorax_spec.adapters.weights import HydraHeads, LoraWeights, MedusaHeads
from lorax_spec.engine.grammar.compiling import Compiling
from lorax_spec.engine.noise import Noise
from lorax_spec.engine.request import TokenRequest
from lorax_spec.engine.sampling import History, SamplingRule
from lorax_spec.speculation.guesses import Guesses
from lorax_spec.speculation.tree import EMPTY, DraftTree
from lorax_spec.types import SpeculationDetails, Timings

if TYPE_CHECKING:
    from lorax_spec.engine.grammar.constraint import Constraint


@dataclass
class Progress:
    """Counts and times of one request; times are ``time.monotonic`` seconds, 0 until they come."""

    arrived: float = field(default_factory=time.monotonic)
    adapter_ready: float = 0.0
    started: float = 0.0
    first_token: float = 0.0
    forward_passes: int = 0
    guesses: Guesses = field(default_factory=Guesses)

    def speculation(self) -> SpeculationDetails:
        drafters = self.guesses.by_drafter()
        return SpeculationDetails(
            sum(counts.drafted_tokens for counts in drafters.values()),
            sum(counts.accepted_tokens for counts in drafters.values()),
            self.forward_passes,
            drafters,
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
    #: How many requests arrived before it.
    number: int = 0
    #: Its adapters have arrived and are bound below; it may run.
    ready: bool = False
    lora: LoraWeights | None = None
    heads: MedusaHeads | None = None
    hydra: HydraHeads | None = None
    #: What shaped the keys and values, for the prefix cache.
    identity: str = ""
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    published: int = 0
    draft: DraftTree = EMPTY
    #: Names of the drafters that may guess for it.
    drafters: frozenset[str] = frozenset()
    history: History | None = None
    #: The grammar its output must follow, on its way; None where the output is free.
    compiling: Compiling | None = None
    #: That grammar, as far as the generated tokens have followed it; bound as the adapters are.
    grammar: Constraint | None = None
    prefill_logprobs: list[float] | None = None
    progress: Progress = field(default_factory=Progress)
    noise: Noise = field(init=False)

    def __post_init__(self) -> None:
        self.noise = Noise(self.rule.seed)

    @property
    def settled(self) -> bool:
        """All that it waits for has arrived, or something has failed."""
        if self.lease.error or (self.compiling is not None and self.compiling.error):
            return True
        return self.lease.ready and (self.compiling is None or self.compiling.ready)

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
