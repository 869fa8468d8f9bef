"""The words every room shares: what is asked, and what comes back.

Plain data, no torch, no gRPC.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

#: An adapter id that means: no adapter, not even the server's default.
BASE_MODEL = "__base_model__"


class FinishReason(enum.StrEnum):
    LENGTH = "length"
    EOS_TOKEN = "eos_token"
    STOP_SEQUENCE = "stop_sequence"


class Method(enum.StrEnum):
    """Who drafts."""

    AUTO = "auto"
    NONE = "none"
    MEDUSA = "medusa"
    PROMPT_LOOKUP = "prompt_lookup"
    DRAFT_MODEL = "draft_model"
    LOOKAHEAD = "lookahead"


@dataclass(frozen=True)
class ResponseFormat:
    """``type`` is text, json_object, json_schema, regex or choice."""

    type: str
    schema: str = ""


@dataclass(frozen=True)
class Parameters:
    """How to generate.  None means: the server's default."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    do_sample: bool = False
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos_token: bool = False
    truncate: int | None = None
    return_full_text: bool = False
    return_k_alternatives: int | None = None
    decoder_input_details: bool = False
    details: bool = True
    response_format: ResponseFormat | None = None
    best_of: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Speculation:
    """Who drafts, and how much: ``num_tokens`` exactly where given, else as the controller says.

    ``medusa_adapter_id``: heads (Medusa or Hydra) to draft with, beside the request's adapter.
    ``reference``: text that prompt lookup searches as well, such as the document that is edited.
    ``show_rejected``: a stream's events name the guesses that were wrong as well.
    """

    method: Method = Method.AUTO
    num_tokens: int | None = None
    medusa_adapter_id: str | None = None
    reference: str | None = None
    show_rejected: bool = False


@dataclass(frozen=True)
class RejectedGuess:
    """A guess for the ``ahead``-th token of a step, from 1 on, that the model did not follow."""

    ahead: int
    id: int
    drafter: str
    text: str = ""


@dataclass(frozen=True)
class AdapterRef:
    """An adapter as a request names it."""

    adapter_id: str
    source: str = ""
    revision: str = ""
    api_token: str = field(default="", repr=False)


@dataclass(frozen=True)
class AdapterChat:
    """How an adapter's folder writes conversations; ``template`` is Jinja's, empty for the model's
    own.  ``special_tokens``: texts by names such as ``eos_token``."""

    template: str = ""
    special_tokens: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MergedRef:
    """Adapters merged into one, complete: every field says what is done.

    ``parts`` and ``weights`` are as many; ``method`` is one of linear, ties, dare_linear and
    dare_ties, ``density`` above 0 and at most 1, ``majority_sign_method`` total or frequency.
    """

    parts: tuple[AdapterRef, ...]
    weights: tuple[float, ...]
    method: str = "linear"
    density: float = 1.0
    majority_sign_method: str = "total"

    @property
    def adapter_id(self) -> str:
        """What the merged adapter is called where people read of it."""
        pairs = zip(self.weights, self.parts, strict=True)
        terms = " + ".join(f"{weight} {part.adapter_id}" for weight, part in pairs)
        pruning = "" if self.density == 1 else f", density {self.density}"
        signs = "" if self.majority_sign_method == "total" else f", {self.majority_sign_method}"
        return f"{self.method}({terms}{pruning}{signs})"


@dataclass(frozen=True)
class MergedAdapters:
    """Adapters to merge for one request, with LoRAX's names.

    ``weights``: one for each id; none: 1 for all.  ``merge_strategy`` is linear, ties, dare_linear
    or dare_ties.  ``density``: the share of each adapter's numbers that ties and dare keep; None:
    a half.  ``majority_sign_method``, of ties and dare_ties: total or frequency.
    """

    ids: tuple[str, ...]
    weights: tuple[float, ...] = ()
    merge_strategy: str = "linear"
    density: float | None = None
    majority_sign_method: str = "total"


@dataclass(frozen=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True)
class GenerateRequest:
    """One prompt (``inputs``) or one conversation (``messages``), and how to continue it."""

    inputs: str = ""
    adapter_id: str | None = None
    adapter_source: str | None = None
    adapter_revision: str | None = None
    api_token: str | None = field(default=None, repr=False)
    merged_adapters: MergedAdapters | None = None
    parameters: Parameters = Parameters()
    speculation: Speculation = Speculation()
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True)
class AlternativeToken:
    id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class InputToken:
    """A token of a text; ``start`` and ``stop`` count the text's characters, end exclusive."""

    id: int
    text: str
    start: int
    stop: int


@dataclass(frozen=True)
class PrefillToken:
    """A prompt token; ``logprob`` is None for the first, which nothing predicts."""

    id: int
    text: str
    logprob: float | None


@dataclass(frozen=True)
class Token:
    """A generated token.

    ``logprob`` is the natural log of the model's own probability, before penalties and
    temperature.  ``skipped`` says that it came from an accepted draft and cost no forward pass of
    its own; ``drafter`` names who guessed it.
    """

    id: int
    text: str
    logprob: float
    special: bool = False
    skipped: bool = False
    drafter: str = ""
    alternative_tokens: tuple[AlternativeToken, ...] = ()


@dataclass(frozen=True)
class DrafterCounts:
    """``drafted_by_depth[d]`` and ``accepted_by_depth[d]`` count nodes ``d + 1`` tokens ahead."""

    drafted_tokens: int = 0
    accepted_tokens: int = 0
    drafted_by_depth: tuple[int, ...] = ()
    accepted_by_depth: tuple[int, ...] = ()


@dataclass(frozen=True)
class SpeculationDetails:
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    forward_passes: int = 0
    drafters: Mapping[str, DrafterCounts] = field(default_factory=dict)


@dataclass(frozen=True)
class Timings:
    """Seconds."""

    queue: float = 0.0
    adapter_load: float = 0.0
    prefill: float = 0.0
    first_token: float = 0.0
    per_token: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class Details:
    finish_reason: FinishReason
    prompt_tokens: int
    generated_tokens: int
    skipped_tokens: int
    seed: int | None
    prefill: tuple[PrefillToken, ...]
    tokens: tuple[Token, ...]
    speculation: SpeculationDetails
    timings: Timings


@dataclass(frozen=True)
class Response:
    generated_text: str
    details: Details


@dataclass(frozen=True)
class StreamResponse:
    """A token, or, in the last event, the whole text and its details.

    ``speculation`` counts up to the end of the token's step; gRPC tells it in the details alone.
    ``rejected`` comes with the last token of a step, where the request asks for it.
    """

    token: Token | None = None
    generated_text: str | None = None
    details: Details | None = None
    speculation: SpeculationDetails | None = None
    rejected: tuple[RejectedGuess, ...] = ()


@dataclass(frozen=True)
class LoadTimes:
    """Seconds: files brought here, read into host memory, copied to the device."""

    fetch: float = 0.0
    read: float = 0.0
    copy: float = 0.0


@dataclass(frozen=True)
class AdapterMove:
    """A stage of an adapter's load that has ended, of LoadTimes' names, or ``evict``: it left the
    device to make room.  ``adapter_id`` is empty for one that was merged for requests."""

    adapter_id: str
    stage: str
    seconds: float = 0.0


@dataclass(frozen=True)
class AdapterInfo:
    """What a server knows of one adapter.

    ``kind`` is lora, medusa, hydra, lora+medusa or lora+hydra, and ``medusa_heads`` counts the
    heads of either kind.  ``last_used``: when a request last ran on it, in seconds since 1970, 0
    where none did.  ``load``: what its last load took.  ``drafters``: by name, what was guessed
    for the requests on it that have ended.  ``scope`` tells apart what was read with different
    credentials, and is empty where anyone may read it.
    """

    adapter_id: str
    kind: str
    state: str
    tier: str
    bytes: int
    pinned: bool
    source: str = "local"
    revision: str = ""
    in_use: int = 0
    error: str = ""
    rank: int = 0
    medusa_heads: int = 0
    last_used: float = 0.0
    load: LoadTimes = LoadTimes()
    drafters: Mapping[str, DrafterCounts] = field(default_factory=dict)
    scope: str = ""


@dataclass(frozen=True)
class Info:
    """What a server serves, and its limits."""

    version: str
    model_id: str
    model_revision: str
    dtype: str
    device: str
    max_input_length: int
    max_total_tokens: int
    max_concurrent_requests: int
    speculative_tokens: int
    deterministic: bool
    default_adapter_id: str
    workers: int
    max_batch_total_tokens: int
    block_size: int
    model_path: str
