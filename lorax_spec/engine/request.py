"""What goes into the engine and what comes out of it: tokens, not text.  No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from lorax_spec.errors import LoraxSpecError
from lorax_spec.types import (
    AdapterRef,
    FinishReason,
    MergedRef,
    Parameters,
    RejectedGuess,
    Speculation,
    SpeculationDetails,
    Timings,
)


@dataclass(frozen=True)
class TokenRequest:
    """A validated request.

    ``parameters`` has ``max_new_tokens`` and, where it samples, ``seed`` filled in; its ``stop``
    strings are the caller's business, since they speak of text.  ``generated`` holds tokens that
    were already sent before the request moved here; they count towards ``max_new_tokens`` and are
    not emitted again.  ``adapter`` and ``medusa`` are None for none.  ``reference``: tokens of
    the speculation's reference text.  ``traceparent`` is W3C's, empty where nobody traces it.
    """

    request_id: int
    prompt: tuple[int, ...]
    parameters: Parameters
    speculation: Speculation = Speculation()
    adapter: AdapterRef | MergedRef | None = None
    medusa: AdapterRef | None = None
    generated: tuple[int, ...] = ()
    reference: tuple[int, ...] = ()
    traceparent: str = ""


@dataclass(frozen=True)
class EmittedToken:
    """``drafter`` is empty where the model itself chose; alternatives are (id, logprob)."""

    id: int
    logprob: float
    drafter: str = ""
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Emitted:
    """What one forward pass gave one request.

    ``prefill_logprobs`` holds the log-probabilities of prompt tokens 1.. and comes once, before
    the first token, where ``decoder_input_details`` asks for it.
    """

    request_id: int
    tokens: tuple[EmittedToken, ...]
    speculation: SpeculationDetails
    prefill_logprobs: tuple[float, ...] = ()
    rejected: tuple[RejectedGuess, ...] = ()


@dataclass(frozen=True)
class Finished:
    request_id: int
    reason: FinishReason
    speculation: SpeculationDetails
    timings: Timings


@dataclass(frozen=True)
class Failed:
    request_id: int
    error: LoraxSpecError


Event = Emitted | Finished | Failed
