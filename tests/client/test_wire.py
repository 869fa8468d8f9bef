"""Every value survives the wire; every error keeps its class, its field and its delay."""

from __future__ import annotations

import struct
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec import types, wire
from lorax_spec.engine import request as engine
from lorax_spec.errors import ERRORS_BY_CODE, InvalidArgument, LoraxSpecError, Overloaded
from lorax_spec.v1 import lorax_spec_pb2 as pb
from lorax_spec.v1 import worker_pb2
from lorax_spec.wire.fields import shortest

text = st.text(max_size=20)
uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
float32 = st.floats(width=32, allow_nan=False)
#: What people write: few digits, not a float32.
decimal = st.decimals(-100, 100, places=4, allow_nan=False).map(float)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def many(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(strategy, max_size=3).map(tuple)


parameters = st.builds(
    types.Parameters,
    max_new_tokens=maybe(uint32),
    temperature=maybe(decimal),
    top_k=maybe(uint32),
    top_p=maybe(decimal),
    min_p=maybe(decimal),
    typical_p=maybe(decimal),
    repetition_penalty=maybe(decimal),
    frequency_penalty=maybe(decimal),
    presence_penalty=maybe(decimal),
    do_sample=st.booleans(),
    seed=maybe(uint64),
    stop=many(text),
    ignore_eos_token=st.booleans(),
    truncate=maybe(uint32),
    return_full_text=st.booleans(),
    return_k_alternatives=maybe(uint32),
    decoder_input_details=st.booleans(),
    details=st.booleans(),
    response_format=maybe(st.builds(types.ResponseFormat, type=text, schema=text)),
    best_of=maybe(uint32),
    logit_bias=st.dictionaries(uint32, decimal, max_size=3),
)
speculation = st.builds(
    types.Speculation,
    method=st.sampled_from(types.Method),
    num_tokens=maybe(uint32),
    medusa_adapter_id=maybe(text),
    reference=maybe(text),
)
merged = st.builds(
    types.MergedAdapters,
    ids=many(text),
    weights=many(decimal),
    merge_strategy=text.filter(bool),
    density=maybe(decimal),
    majority_sign_method=text.filter(bool),
)
requests = st.builds(
    types.GenerateRequest,
    inputs=text,
    adapter_id=maybe(text),
    adapter_source=maybe(text),
    adapter_revision=maybe(text),
    api_token=maybe(text),
    merged_adapters=maybe(merged),
    parameters=parameters,
    speculation=speculation,
    messages=many(st.builds(types.Message, role=text, content=text)),
)
tokens = st.builds(
    types.Token,
    id=uint32,
    text=text,
    logprob=float32,
    special=st.booleans(),
    skipped=st.booleans(),
    drafter=text,
    alternative_tokens=many(
        st.builds(types.AlternativeToken, id=uint32, text=text, logprob=float32)
    ),
)
drafters = st.dictionaries(
    text,
    st.builds(
        types.DrafterCounts,
        drafted_tokens=uint32,
        accepted_tokens=uint32,
        drafted_by_depth=many(uint32),
        accepted_by_depth=many(uint32),
    ),
    max_size=2,
)
speculation_details = st.builds(
    types.SpeculationDetails,
    drafted_tokens=uint32,
    accepted_tokens=uint32,
    forward_passes=uint32,
    drafters=drafters,
)
seconds = st.floats(0, 1e6)
timings = st.builds(
    types.Timings,
    queue=seconds,
    adapter_load=seconds,
    prefill=seconds,
    first_token=seconds,
    per_token=seconds,
    total=seconds,
)
details = st.builds(
    types.Details,
    finish_reason=st.sampled_from(types.FinishReason),
    prompt_tokens=uint32,
    generated_tokens=uint32,
    skipped_tokens=uint32,
    seed=maybe(uint64),
    prefill=many(st.builds(types.PrefillToken, id=uint32, text=text, logprob=maybe(float32))),
    tokens=many(tokens),
    speculation=speculation_details,
    timings=timings,
)
adapter_refs = st.builds(
    types.AdapterRef, adapter_id=text, source=text, revision=text, api_token=text
)
merged_refs = st.lists(st.tuples(adapter_refs, st.floats(allow_nan=False)), max_size=3).flatmap(
    lambda parts: st.builds(
        types.MergedRef,
        parts=st.just(tuple(ref for ref, _ in parts)),
        weights=st.just(tuple(weight for _, weight in parts)),
        method=text,
        density=st.floats(allow_nan=False),
        majority_sign_method=text,
    )
)
submits = st.builds(
    engine.TokenRequest,
    request_id=uint64,
    prompt=many(uint32),
    parameters=parameters,
    speculation=speculation,
    adapter=maybe(adapter_refs | merged_refs),
    medusa=maybe(adapter_refs),
    generated=many(uint32),
    reference=many(uint32),
    traceparent=text,
)
emitted = st.builds(
    engine.Emitted,
    request_id=uint64,
    tokens=many(
        st.builds(
            engine.EmittedToken,
            id=uint32,
            logprob=float32,
            drafter=text,
            alternatives=many(st.tuples(uint32, float32)),
        )
    ),
    speculation=speculation_details,
    prefill_logprobs=many(float32),
)
finished = st.builds(
    engine.Finished,
    request_id=uint64,
    reason=st.sampled_from(types.FinishReason),
    speculation=speculation_details,
    timings=timings,
)
infos = st.builds(
    types.Info,
    **{
        name: {"str": text, "int": uint32, "bool": st.booleans()}[str(field.type)]
        for name, field in types.Info.__dataclass_fields__.items()
    },
)
_ADAPTER_FIELDS = {
    "str": text,
    "int": uint32,
    "bool": st.booleans(),
    "float": seconds,
    "LoadTimes": st.builds(types.LoadTimes, seconds, seconds, seconds),
    "Mapping[str, DrafterCounts]": drafters,
}
adapters = st.builds(
    types.AdapterInfo,
    **{
        name: _ADAPTER_FIELDS[str(field.type)]
        for name, field in types.AdapterInfo.__dataclass_fields__.items()
    },
)


@given(requests)
def test_requests(request: types.GenerateRequest) -> None:
    sent = wire.request_to_pb(request).SerializeToString()
    assert wire.request_from_pb(pb.GenerateRequest.FromString(sent)) == request


def test_a_request_of_defaults_stays_one() -> None:
    assert wire.request_from_pb(pb.GenerateRequest()) == types.GenerateRequest()


@given(text, details)
def test_responses(generated: str, whole: types.Details) -> None:
    response = types.Response(generated, whole)
    sent = wire.response_to_pb(response).SerializeToString()
    assert wire.response_from_pb(pb.GenerateResponse.FromString(sent)) == response


@given(
    st.builds(
        types.StreamResponse,
        token=maybe(tokens),
        generated_text=maybe(text),
        details=maybe(details),
    )
)
def test_stream_events(event: types.StreamResponse) -> None:
    sent = wire.stream_to_pb(event).SerializeToString()
    assert wire.stream_from_pb(pb.GenerateStreamResponse.FromString(sent)) == event


@given(submits)
def test_submits(request: engine.TokenRequest) -> None:
    sent = wire.submit_to_pb(request).SerializeToString()
    assert wire.submit_from_pb(worker_pb2.Submit.FromString(sent)) == request


@given(
    st.builds(
        wire.WorkerReport,
        events=many(emitted | finished),
        load=maybe(st.builds(wire.WorkerLoad, uint32, uint32, uint64, many(text))),
        moves=many(st.builds(types.AdapterMove, text, text, seconds)),
    )
)
def test_reports(report: wire.WorkerReport) -> None:
    sent = wire.report_to_pb(report).SerializeToString()
    assert wire.report_from_pb(worker_pb2.WorkerMessage.FromString(sent)) == report


def test_an_event_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError):
        wire.report_from_pb(worker_pb2.WorkerMessage(events=[worker_pb2.Event()]))


@pytest.mark.parametrize("kind", ERRORS_BY_CODE.values())
def test_a_failure_keeps_its_class_and_message(kind: type[LoraxSpecError]) -> None:
    sent = wire.report_to_pb(wire.WorkerReport((engine.Failed(7, kind("no")),)))
    (event,) = wire.report_from_pb(sent).events
    assert isinstance(event, engine.Failed)
    assert (event.request_id, type(event.error), event.error.message) == (7, kind, "no")


def test_a_failure_keeps_its_field_and_its_delay() -> None:
    failures = (
        engine.Failed(1, InvalidArgument("no", field="parameters.top_p")),
        engine.Failed(2, Overloaded("full", retry_after=2.5)),
    )
    sent = wire.report_to_pb(wire.WorkerReport(failures)).SerializeToString()
    wrong, full = wire.report_from_pb(worker_pb2.WorkerMessage.FromString(sent)).events
    assert isinstance(wrong, engine.Failed) and isinstance(wrong.error, InvalidArgument)
    assert wrong.error.field == "parameters.top_p"
    assert isinstance(full, engine.Failed) and isinstance(full.error, Overloaded)
    assert full.error.retry_after == 2.5


@given(infos, adapters, many(st.builds(types.InputToken, uint32, text, uint32, uint32)))
def test_what_a_server_says_of_itself(
    info: types.Info, adapter: types.AdapterInfo, pieces: tuple[types.InputToken, ...]
) -> None:
    assert wire.info_from_pb(wire.info_to_pb(info)) == info
    assert wire.adapter_info_from_pb(wire.adapter_info_to_pb(adapter)) == adapter
    assert wire.input_tokens_from_pb(wire.input_tokens_to_pb(pieces)) == pieces


@given(float32 | st.just(0.7))
def test_the_shortest_decimal_is_the_same_float32(value: float) -> None:
    packed = struct.unpack("<f", struct.pack("<f", value))[0]
    assert struct.pack("<f", shortest(packed)) == struct.pack("<f", value)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (
            types.GenerateRequest(parameters=types.Parameters(max_new_tokens=-1)),
            "parameters.max_new_tokens",
        ),
        (types.GenerateRequest(parameters=types.Parameters(top_k=2**40)), "parameters.top_k"),
        (
            types.GenerateRequest(parameters=types.Parameters(temperature="hot")),  # type: ignore[arg-type]
            "parameters.temperature",
        ),
        (types.GenerateRequest(parameters=types.Parameters(stop=(1,))), "parameters.stop"),  # type: ignore[arg-type]
        (
            types.GenerateRequest(parameters=types.Parameters(logit_bias={-1: 0.0})),
            "parameters.logit_bias",
        ),
        (types.GenerateRequest(inputs=3), "inputs"),  # type: ignore[arg-type]
        (
            types.GenerateRequest(speculation=types.Speculation(num_tokens=-3)),
            "speculation.num_tokens",
        ),
        (types.GenerateRequest(speculation=types.Speculation(method="luck")), "speculation.method"),  # type: ignore[arg-type]
    ],
)
def test_a_value_that_does_not_fit_names_its_field(
    request_: types.GenerateRequest, field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        wire.request_to_pb(request_)
    assert caught.value.field == field
    assert field in caught.value.message


def test_a_method_of_a_newer_client_is_refused_by_name() -> None:
    message = pb.GenerateRequest(speculation=pb.Speculation(method=99))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument) as caught:
        wire.request_from_pb(pb.GenerateRequest.FromString(message.SerializeToString()))
    assert caught.value.field == "speculation.method"


class FailedCall(grpc.RpcError):
    """A call that ended with a status, as grpc's own calls answer for it."""

    def __init__(self, status: grpc.Status) -> None:
        self.status = status

    def code(self) -> grpc.StatusCode:
        return self.status.code

    def details(self) -> str:
        return self.status.details

    def trailing_metadata(self) -> Any:
        return self.status.trailing_metadata


@given(st.sampled_from(list(ERRORS_BY_CODE.values())), st.text(min_size=1, max_size=50))
def test_errors(kind: type[LoraxSpecError], message: str) -> None:
    error = wire.error_of(FailedCall(wire.status_of(kind(message))))
    assert (type(error), error.message) == (kind, message)
    assert wire.status_of(error).code.value[0] == kind.code
    assert kind.code in code_pb2.Code.values()


def test_the_field_and_the_delay_of_an_error_survive() -> None:
    wrong = wire.error_of(FailedCall(wire.status_of(InvalidArgument("no", field="top_p"))))
    full = wire.error_of(FailedCall(wire.status_of(Overloaded("full", retry_after=2.5))))
    assert isinstance(wrong, InvalidArgument) and wrong.field == "top_p"
    assert isinstance(full, Overloaded) and full.retry_after == 2.5


def test_an_endless_message_is_cut_to_fit_the_trailers() -> None:
    assert (
        len(wire.error_of(FailedCall(wire.status_of(LoraxSpecError("x" * 10**6)))).message) == 1000
    )


@given(text, st.dictionaries(text, text, max_size=3))
def test_adapters_chats(template: str, special_tokens: dict[str, str]) -> None:
    chat = types.AdapterChat(template, special_tokens)
    assert wire.adapter_chat_from_pb(wire.adapter_chat_to_pb(chat)) == chat
