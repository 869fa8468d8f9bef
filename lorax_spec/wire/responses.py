"""What comes back: texts, tokens, details, and what a server says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict

from lorax_spec.errors import LoraxSpecError
from lorax_spec.types import (
    AdapterInfo,
    AlternativeToken,
    Details,
    DrafterCounts,
    FinishReason,
    Info,
    InputToken,
    LoadTimes,
    PrefillToken,
    RejectedGuess,
    Response,
    SpeculationDetails,
    StreamResponse,
    Timings,
    Token,
)
from lorax_spec.v1 import lorax_spec_pb2 as pb
from lorax_spec.wire.fields import optional


def response_to_pb(response: Response) -> pb.GenerateResponse:
    return pb.GenerateResponse(
        generated_text=response.generated_text, details=details_to_pb(response.details)
    )


def response_from_pb(message: pb.GenerateResponse) -> Response:
    return Response(message.generated_text, details_from_pb(message.details))


def stream_to_pb(event: StreamResponse) -> pb.GenerateStreamResponse:
    return pb.GenerateStreamResponse(
        token=None if event.token is None else token_to_pb(event.token),
        generated_text=event.generated_text,
        details=None if event.details is None else details_to_pb(event.details),
        rejected=rejected_to_pb(event.rejected),
    )


def stream_from_pb(message: pb.GenerateStreamResponse) -> StreamResponse:
    return StreamResponse(
        token=token_from_pb(message.token) if message.HasField("token") else None,
        generated_text=optional(message, "generated_text"),
        details=details_from_pb(message.details) if message.HasField("details") else None,
        rejected=rejected_from_pb(message.rejected),
    )


def rejected_to_pb(guesses: Iterable[RejectedGuess]) -> list[pb.RejectedGuess]:
    return [
        pb.RejectedGuess(ahead=one.ahead, id=one.id, text=one.text, drafter=one.drafter)
        for one in guesses
    ]


def rejected_from_pb(messages: Iterable[pb.RejectedGuess]) -> tuple[RejectedGuess, ...]:
    return tuple(RejectedGuess(one.ahead, one.id, one.drafter, one.text) for one in messages)


def details_to_pb(details: Details) -> pb.Details:
    return pb.Details(
        finish_reason=details.finish_reason.name,
        prompt_tokens=details.prompt_tokens,
        generated_tokens=details.generated_tokens,
        skipped_tokens=details.skipped_tokens,
        seed=details.seed,
        prefill=[
            pb.PrefillToken(id=token.id, text=token.text, logprob=token.logprob)
            for token in details.prefill
        ],
        tokens=[token_to_pb(token) for token in details.tokens],
        speculation=speculation_details_to_pb(details.speculation),
        timings=timings_to_pb(details.timings),
    )


def details_from_pb(message: pb.Details) -> Details:
    return Details(
        finish_reason=finish_reason_from_pb(message.finish_reason),
        prompt_tokens=message.prompt_tokens,
        generated_tokens=message.generated_tokens,
        skipped_tokens=message.skipped_tokens,
        seed=optional(message, "seed"),
        prefill=tuple(
            PrefillToken(token.id, token.text, optional(token, "logprob"))
            for token in message.prefill
        ),
        tokens=tuple(token_from_pb(token) for token in message.tokens),
        speculation=speculation_details_from_pb(message.speculation),
        timings=timings_from_pb(message.timings),
    )


def token_to_pb(token: Token) -> pb.Token:
    return pb.Token(
        id=token.id,
        text=token.text,
        logprob=token.logprob,
        special=token.special,
        skipped=token.skipped,
        drafter=token.drafter,
        alternative_tokens=[
            pb.AlternativeToken(id=other.id, text=other.text, logprob=other.logprob)
            for other in token.alternative_tokens
        ],
    )


def token_from_pb(message: pb.Token) -> Token:
    return Token(
        id=message.id,
        text=message.text,
        logprob=message.logprob,
        special=message.special,
        skipped=message.skipped,
        drafter=message.drafter,
        alternative_tokens=tuple(
            AlternativeToken(other.id, other.text, other.logprob)
            for other in message.alternative_tokens
        ),
    )


def finish_reason_from_pb(value: int) -> FinishReason:
    """Raises ``LoraxSpecError`` where the number stands for no reason."""
    if value == pb.FINISH_REASON_UNSPECIFIED or value not in pb.FinishReason.values():
        raise LoraxSpecError(f"finish reason {value} is not known here")
    return FinishReason[pb.FinishReason.Name(value)]


def speculation_details_to_pb(details: SpeculationDetails) -> pb.SpeculationDetails:
    return pb.SpeculationDetails(
        drafted_tokens=details.drafted_tokens,
        accepted_tokens=details.accepted_tokens,
        forward_passes=details.forward_passes,
        drafters=_drafters_to_pb(details.drafters),
    )


def speculation_details_from_pb(message: pb.SpeculationDetails) -> SpeculationDetails:
    return SpeculationDetails(
        drafted_tokens=message.drafted_tokens,
        accepted_tokens=message.accepted_tokens,
        forward_passes=message.forward_passes,
        drafters=_drafters_from_pb(message.drafters),
    )


def _drafters_to_pb(drafters: Mapping[str, DrafterCounts]) -> dict[str, pb.DrafterCounts]:
    return {name: pb.DrafterCounts(**asdict(counts)) for name, counts in drafters.items()}


def _drafters_from_pb(messages: Mapping[str, pb.DrafterCounts]) -> dict[str, DrafterCounts]:
    return {
        name: DrafterCounts(
            counts.drafted_tokens,
            counts.accepted_tokens,
            tuple(counts.drafted_by_depth),
            tuple(counts.accepted_by_depth),
        )
        for name, counts in messages.items()
    }


def timings_to_pb(timings: Timings) -> pb.Timings:
    return pb.Timings(**asdict(timings))


def timings_from_pb(message: pb.Timings) -> Timings:
    return Timings(
        queue=message.queue,
        adapter_load=message.adapter_load,
        prefill=message.prefill,
        first_token=message.first_token,
        per_token=message.per_token,
        total=message.total,
    )


def adapter_info_to_pb(adapter: AdapterInfo) -> pb.Adapter:
    plain = {name: getattr(adapter, name) for name in AdapterInfo.__dataclass_fields__}
    load, drafters = pb.LoadTimes(**asdict(adapter.load)), _drafters_to_pb(adapter.drafters)
    return pb.Adapter(**{**plain, "load": load, "drafters": drafters})


def adapter_info_from_pb(message: pb.Adapter) -> AdapterInfo:
    plain = {name: getattr(message, name) for name in AdapterInfo.__dataclass_fields__}
    load = LoadTimes(message.load.fetch, message.load.read, message.load.copy)
    return AdapterInfo(**{**plain, "load": load, "drafters": _drafters_from_pb(message.drafters)})


def info_to_pb(info: Info) -> pb.InfoResponse:
    return pb.InfoResponse(**asdict(info))


def info_from_pb(message: pb.InfoResponse) -> Info:
    return Info(**{name: getattr(message, name) for name in Info.__dataclass_fields__})


def input_tokens_to_pb(tokens: Iterable[InputToken]) -> pb.TokenizeResponse:
    return pb.TokenizeResponse(
        tokens=[pb.TokenizeResponse.Piece(**asdict(token)) for token in tokens]
    )


def input_tokens_from_pb(message: pb.TokenizeResponse) -> tuple[InputToken, ...]:
    return tuple(
        InputToken(piece.id, piece.text, piece.start, piece.stop) for piece in message.tokens
    )
