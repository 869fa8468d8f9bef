"""What LoRAX's and TGI's clients read, and what this server says besides."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from lorax_spec.types import (
    AdapterInfo,
    AlternativeToken,
    Details,
    DrafterCounts,
    FinishReason,
    Info,
    LoadTimes,
    RejectedGuess,
    Response,
    SpeculationDetails,
    Timings,
    Token,
)

#: JSON has no minus infinity.
_LEAST_LOGPROB = -9999.0


class AlternativeAnswer(BaseModel):
    id: int
    text: str
    logprob: float


class TokenAnswer(BaseModel):
    """``skipped``: it came from an accepted draft, which ``drafter`` guessed."""

    id: int
    text: str
    logprob: float
    special: bool
    skipped: bool = False
    drafter: str = ""
    alternative_tokens: list[AlternativeAnswer] | None = None


class PrefillAnswer(BaseModel):
    id: int
    text: str
    logprob: float | None


class StreamDetailsAnswer(BaseModel):
    """Details without the tokens, which a stream has told already.  ``timings`` in seconds."""

    finish_reason: FinishReason
    prompt_tokens: int
    input_length: int
    generated_tokens: int
    skipped_tokens: int
    seed: int | None
    speculation: SpeculationDetails
    timings: Timings


class DetailsAnswer(StreamDetailsAnswer):
    prefill: list[PrefillAnswer]
    tokens: list[TokenAnswer]
    top_tokens: list[list[TokenAnswer]] | None = None
    best_of_sequences: None = None


class GenerateAnswer(BaseModel):
    generated_text: str
    details: DetailsAnswer | None = None


class StreamAnswer(BaseModel):
    """An event of a stream; ``index`` counts from 1.  The last has the text and details.

    With ``step_details`` come ``speculation``, the counts up to the end of the token's step, and,
    beside a step's last token, ``rejected``: its guesses that were wrong.
    """

    index: int
    token: TokenAnswer
    top_tokens: list[TokenAnswer] | None = None
    speculation: SpeculationDetails | None = None
    rejected: list[RejectedGuess] | None = None
    generated_text: str | None = None
    details: StreamDetailsAnswer | None = None


class PieceAnswer(BaseModel):
    """``start`` and ``stop`` count characters of the input, end exclusive."""

    id: int
    text: str
    start: int
    stop: int


class InfoAnswer(BaseModel):
    """LoRAX's names; below them, what only this server has."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_device_type: str
    model_pipeline_tag: str = "text-generation"
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_length: int
    max_total_tokens: int
    max_batch_total_tokens: int
    version: str
    speculative_tokens: int
    deterministic: bool
    default_adapter_id: str
    workers: int
    block_size: int


class AdapterAnswer(BaseModel):
    adapter_id: str
    kind: str
    state: str
    tier: str
    bytes: int
    pinned: bool
    source: str
    revision: str
    in_use: int
    error: str
    rank: int
    medusa_heads: int
    last_used: float
    load: LoadTimes
    drafters: dict[str, DrafterCounts]


def adapter_answer(info: AdapterInfo) -> AdapterAnswer:
    """Without its ``scope``, which is nobody's business on the web."""
    return AdapterAnswer(**{name: getattr(info, name) for name in AdapterAnswer.model_fields})


def info_answer(info: Info, max_best_of: int, max_stop_sequences: int) -> InfoAnswer:
    ours: dict[str, Any] = {name: getattr(info, name, None) for name in InfoAnswer.model_fields}
    theirs = {
        "model_sha": info.model_revision or None,
        "model_dtype": info.dtype,
        "model_device_type": info.device,
        "model_pipeline_tag": "text-generation",
        "max_best_of": max_best_of,
        "max_stop_sequences": max_stop_sequences,
    }
    return InfoAnswer(**{**ours, **theirs})


def generate_answer(response: Response, details: bool, top_tokens: bool) -> GenerateAnswer:
    return GenerateAnswer(
        generated_text=response.generated_text,
        details=details_answer(response.details, top_tokens) if details else None,
    )


def details_answer(details: Details, top_tokens: bool) -> DetailsAnswer:
    return DetailsAnswer(
        **_figures(details),
        prefill=[
            PrefillAnswer(id=one.id, text=one.text, logprob=one.logprob) for one in details.prefill
        ],
        tokens=[token_answer(token) for token in details.tokens],
        top_tokens=[top_answers(one) for one in details.tokens] if top_tokens else None,
    )


def stream_details(details: Details) -> StreamDetailsAnswer:
    return StreamDetailsAnswer(**_figures(details))


def token_answer(token: Token) -> TokenAnswer:
    others = token.alternative_tokens
    return TokenAnswer(
        id=token.id,
        text=token.text,
        logprob=logprob(token.logprob),
        special=token.special,
        skipped=token.skipped,
        drafter=token.drafter,
        alternative_tokens=list(_alternatives(others)) if others else None,
    )


def top_answers(token: Token) -> list[TokenAnswer]:
    """TGI's form of the alternatives."""
    return [
        TokenAnswer(id=one.id, text=one.text, logprob=logprob(one.logprob), special=False)
        for one in token.alternative_tokens
    ]


def logprob(value: float) -> float:
    return max(value, _LEAST_LOGPROB)


def _alternatives(tokens: Iterable[AlternativeToken]) -> Iterable[AlternativeAnswer]:
    for one in tokens:
        yield AlternativeAnswer(id=one.id, text=one.text, logprob=logprob(one.logprob))


def _figures(details: Details) -> dict[str, Any]:
    return {
        "finish_reason": details.finish_reason,
        "prompt_tokens": details.prompt_tokens,
        "input_length": details.prompt_tokens,
        "generated_tokens": details.generated_tokens,
        "skipped_tokens": details.skipped_tokens,
        "seed": details.seed,
        "speculation": details.speculation,
        "timings": details.timings,
    }
