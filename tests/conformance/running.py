"""Driving an EngineCore to the end of some requests."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import Emitted, EmittedToken, Failed, Finished, TokenRequest
from lorax_spec.errors import LoraxSpecError
from lorax_spec.types import FinishReason, SpeculationDetails


@dataclass
class Outcome:
    """Everything one request got."""

    tokens: list[EmittedToken] = field(default_factory=list)
    prefill: tuple[float, ...] = ()
    reason: FinishReason | None = None
    speculation: SpeculationDetails = SpeculationDetails()
    error: LoraxSpecError | None = None

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


def run(core: EngineCore, requests: Iterable[TokenRequest], timeout: float = 120) -> list[Outcome]:
    """Outcomes in the order of ``requests``; afterwards the core must be idle and whole."""
    outcomes: dict[int, Outcome] = {}
    for request in requests:
        outcomes[request.request_id] = Outcome()
        core.submit(request)
    live = set(outcomes)
    deadline = time.monotonic() + timeout
    while live:
        assert time.monotonic() < deadline, f"requests {live} do not end"
        if not core.has_work:
            time.sleep(0.001)
            continue
        for event in core.step():
            outcome = outcomes[event.request_id]
            match event:
                case Emitted():
                    outcome.tokens += event.tokens
                    outcome.prefill += event.prefill_logprobs
                case Finished():
                    outcome.reason, outcome.speculation = event.reason, event.speculation
                    live.remove(event.request_id)
                case Failed():
                    outcome.error = event.error
                    live.remove(event.request_id)
    core.check_integrity()
    return list(outcomes.values())
