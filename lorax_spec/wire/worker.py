"""Between router and worker: token requests down, reports of events up."""

from __future__ import annotations

from dataclasses import dataclass

from lorax_spec.engine.request import (
    Emitted,
    EmittedToken,
    Event,
    Failed,
    Finished,
    TokenRequest,
)
from lorax_spec.errors import InvalidArgument, Overloaded, error_from_code
from lorax_spec.types import AdapterChat, AdapterMove, AdapterRef, MergedRef
from lorax_spec.v1 import worker_pb2 as pb
from lorax_spec.wire.fields import assign, extend
from lorax_spec.wire.requests import (
    parameters_from_pb,
    parameters_to_pb,
    speculation_from_pb,
    speculation_to_pb,
)
from lorax_spec.wire.responses import (
    finish_reason_from_pb,
    rejected_from_pb,
    rejected_to_pb,
    speculation_details_from_pb,
    speculation_details_to_pb,
    timings_from_pb,
    timings_to_pb,
)


@dataclass(frozen=True)
class WorkerLoad:
    """How busy a worker is; ``free_tokens`` counts tokens of free KV cache."""

    running: int = 0
    waiting: int = 0
    free_tokens: int = 0
    device_adapters: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkerReport:
    """What a worker tells a router at one time; ``load`` is None where it has not changed."""

    events: tuple[Event, ...] = ()
    load: WorkerLoad | None = None
    moves: tuple[AdapterMove, ...] = ()


def submit_to_pb(request: TokenRequest) -> pb.Submit:
    adapter = request.adapter
    message = pb.Submit(
        request_id=request.request_id,
        adapter=adapter_ref_to_pb(adapter) if isinstance(adapter, AdapterRef) else None,
        merged=merged_ref_to_pb(adapter) if isinstance(adapter, MergedRef) else None,
        medusa=None if request.medusa is None else adapter_ref_to_pb(request.medusa),
        parameters=parameters_to_pb(request.parameters),
        speculation=speculation_to_pb(request.speculation),
        traceparent=request.traceparent,
    )
    extend(message, "prompt_token_ids", request.prompt)
    extend(message, "generated_token_ids", request.generated)
    extend(message, "reference_token_ids", request.reference)
    return message


def submit_from_pb(message: pb.Submit) -> TokenRequest:
    return TokenRequest(
        request_id=message.request_id,
        prompt=tuple(message.prompt_token_ids),
        parameters=parameters_from_pb(message.parameters),
        speculation=speculation_from_pb(message.speculation),
        adapter=_adapter_from_pb(message),
        medusa=adapter_ref_from_pb(message.medusa) if message.HasField("medusa") else None,
        generated=tuple(message.generated_token_ids),
        reference=tuple(message.reference_token_ids),
        traceparent=message.traceparent,
    )


def _adapter_from_pb(message: pb.Submit) -> AdapterRef | MergedRef | None:
    if message.HasField("merged"):
        return merged_ref_from_pb(message.merged)
    return adapter_ref_from_pb(message.adapter) if message.HasField("adapter") else None


def adapter_ref_to_pb(ref: AdapterRef) -> pb.AdapterRef:
    message = pb.AdapterRef()
    names = ("adapter_id", "source", "revision", "api_token")
    assign(message, {name: getattr(ref, name) for name in names}, "adapter.")
    return message


def adapter_ref_from_pb(message: pb.AdapterRef) -> AdapterRef:
    return AdapterRef(message.adapter_id, message.source, message.revision, message.api_token)


def adapter_chat_to_pb(chat: AdapterChat) -> pb.DescribeAdapterResponse:
    return pb.DescribeAdapterResponse(
        chat_template=chat.template, special_tokens=chat.special_tokens
    )


def adapter_chat_from_pb(message: pb.DescribeAdapterResponse) -> AdapterChat:
    return AdapterChat(message.chat_template, dict(message.special_tokens))


def merged_ref_to_pb(ref: MergedRef) -> pb.MergedRef:
    return pb.MergedRef(
        parts=[adapter_ref_to_pb(part) for part in ref.parts],
        weights=ref.weights,
        method=ref.method,
        density=ref.density,
        majority_sign_method=ref.majority_sign_method,
    )


def merged_ref_from_pb(message: pb.MergedRef) -> MergedRef:
    return MergedRef(
        tuple(adapter_ref_from_pb(part) for part in message.parts),
        tuple(message.weights),
        message.method,
        message.density,
        message.majority_sign_method,
    )


def report_to_pb(report: WorkerReport) -> pb.WorkerMessage:
    return pb.WorkerMessage(
        events=[_event_to_pb(event) for event in report.events],
        load=None if report.load is None else _load_to_pb(report.load),
        moves=[pb.AdapterMove(**vars(move)) for move in report.moves],
    )


def report_from_pb(message: pb.WorkerMessage) -> WorkerReport:
    """Raises ``ValueError`` where one of its events is none that we know."""
    return WorkerReport(
        tuple(_event_from_pb(event) for event in message.events),
        _load_from_pb(message.load) if message.HasField("load") else None,
        tuple(AdapterMove(one.adapter_id, one.stage, one.seconds) for one in message.moves),
    )


def _event_to_pb(event: Event) -> pb.Event:
    match event:
        case Emitted():
            return pb.Event(emitted=_emitted_to_pb(event))
        case Finished():
            return pb.Event(
                finished=pb.Finished(
                    request_id=event.request_id,
                    reason=event.reason.name,
                    speculation=speculation_details_to_pb(event.speculation),
                    timings=timings_to_pb(event.timings),
                )
            )
        case Failed():
            return pb.Event(failed=_failed_to_pb(event))


def _event_from_pb(message: pb.Event) -> Event:
    match message.WhichOneof("event"):
        case "emitted":
            return _emitted_from_pb(message.emitted)
        case "finished":
            finished = message.finished
            return Finished(
                finished.request_id,
                finish_reason_from_pb(finished.reason),
                speculation_details_from_pb(finished.speculation),
                timings_from_pb(finished.timings),
            )
        case "failed":
            return _failed_from_pb(message.failed)
        case other:
            raise ValueError(f"a worker's event of kind {other}")


def _failed_to_pb(event: Failed) -> pb.Failed:
    error = event.error
    return pb.Failed(
        request_id=event.request_id,
        code=error.code,
        message=error.message,
        field=error.field if isinstance(error, InvalidArgument) else "",
        retry_after=error.retry_after if isinstance(error, Overloaded) else 0.0,
    )


def _failed_from_pb(message: pb.Failed) -> Failed:
    error = error_from_code(message.code, message.message)
    if isinstance(error, InvalidArgument):
        error.field = message.field
    if isinstance(error, Overloaded):
        error.retry_after = message.retry_after
    return Failed(message.request_id, error)


def _load_to_pb(load: WorkerLoad) -> pb.Load:
    return pb.Load(
        running=load.running,
        waiting=load.waiting,
        free_tokens=load.free_tokens,
        device_adapters=load.device_adapters,
    )


def _load_from_pb(message: pb.Load) -> WorkerLoad:
    return WorkerLoad(
        message.running, message.waiting, message.free_tokens, tuple(message.device_adapters)
    )


def _emitted_to_pb(event: Emitted) -> pb.Emitted:
    return pb.Emitted(
        request_id=event.request_id,
        tokens=[
            pb.Emitted.EmittedToken(
                id=token.id,
                logprob=token.logprob,
                drafter=token.drafter,
                alternative_ids=[other for other, _ in token.alternatives],
                alternative_logprobs=[logprob for _, logprob in token.alternatives],
            )
            for token in event.tokens
        ],
        prefill_logprobs=event.prefill_logprobs,
        speculation=speculation_details_to_pb(event.speculation),
        rejected=rejected_to_pb(event.rejected),
    )


def _emitted_from_pb(message: pb.Emitted) -> Emitted:
    return Emitted(
        request_id=message.request_id,
        tokens=tuple(
            EmittedToken(
                token.id,
                token.logprob,
                token.drafter,
                tuple(zip(token.alternative_ids, token.alternative_logprobs, strict=True)),
            )
            for token in message.tokens
        ),
        speculation=speculation_details_from_pb(message.speculation),
        prefill_logprobs=tuple(message.prefill_logprobs),
        rejected=rejected_from_pb(message.rejected),
    )
