from lorax_spec.v1 import lorax_spec_pb2 as _lorax_spec_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeAdapterRequest(_message.Message):
    __slots__ = ("adapter",)
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    adapter: AdapterRef
    def __init__(self, adapter: _Optional[_Union[AdapterRef, _Mapping]] = ...) -> None: ...

class DescribeAdapterResponse(_message.Message):
    __slots__ = ("chat_template", "special_tokens")
    class SpecialTokensEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    chat_template: str
    special_tokens: _containers.ScalarMap[str, str]
    def __init__(self, chat_template: _Optional[str] = ..., special_tokens: _Optional[_Mapping[str, str]] = ...) -> None: ...

class RouterMessage(_message.Message):
    __slots__ = ("submit", "cancel")
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    submit: Submit
    cancel: Cancel
    def __init__(self, submit: _Optional[_Union[Submit, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("request_id", "prompt_token_ids", "generated_token_ids", "adapter", "medusa", "parameters", "speculation", "reference_token_ids", "merged", "traceparent")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    MEDUSA_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SPECULATION_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    MERGED_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    prompt_token_ids: _containers.RepeatedScalarFieldContainer[int]
    generated_token_ids: _containers.RepeatedScalarFieldContainer[int]
    adapter: AdapterRef
    medusa: AdapterRef
    parameters: _lorax_spec_pb2.Parameters
    speculation: _lorax_spec_pb2.Speculation
    reference_token_ids: _containers.RepeatedScalarFieldContainer[int]
    merged: MergedRef
    traceparent: str
    def __init__(self, request_id: _Optional[int] = ..., prompt_token_ids: _Optional[_Iterable[int]] = ..., generated_token_ids: _Optional[_Iterable[int]] = ..., adapter: _Optional[_Union[AdapterRef, _Mapping]] = ..., medusa: _Optional[_Union[AdapterRef, _Mapping]] = ..., parameters: _Optional[_Union[_lorax_spec_pb2.Parameters, _Mapping]] = ..., speculation: _Optional[_Union[_lorax_spec_pb2.Speculation, _Mapping]] = ..., reference_token_ids: _Optional[_Iterable[int]] = ..., merged: _Optional[_Union[MergedRef, _Mapping]] = ..., traceparent: _Optional[str] = ...) -> None: ...

class AdapterRef(_message.Message):
    __slots__ = ("adapter_id", "source", "revision", "api_token")
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    API_TOKEN_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    source: str
    revision: str
    api_token: str
    def __init__(self, adapter_id: _Optional[str] = ..., source: _Optional[str] = ..., revision: _Optional[str] = ..., api_token: _Optional[str] = ...) -> None: ...

class MergedRef(_message.Message):
    __slots__ = ("parts", "weights", "method", "density", "majority_sign_method")
    PARTS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    DENSITY_FIELD_NUMBER: _ClassVar[int]
    MAJORITY_SIGN_METHOD_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[AdapterRef]
    weights: _containers.RepeatedScalarFieldContainer[float]
    method: str
    density: float
    majority_sign_method: str
    def __init__(self, parts: _Optional[_Iterable[_Union[AdapterRef, _Mapping]]] = ..., weights: _Optional[_Iterable[float]] = ..., method: _Optional[str] = ..., density: _Optional[float] = ..., majority_sign_method: _Optional[str] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    def __init__(self, request_id: _Optional[int] = ...) -> None: ...

class WorkerMessage(_message.Message):
    __slots__ = ("events", "load", "moves")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    load: Load
    moves: _containers.RepeatedCompositeFieldContainer[AdapterMove]
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., moves: _Optional[_Iterable[_Union[AdapterMove, _Mapping]]] = ...) -> None: ...

class AdapterMove(_message.Message):
    __slots__ = ("adapter_id", "stage", "seconds")
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    stage: str
    seconds: float
    def __init__(self, adapter_id: _Optional[str] = ..., stage: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("emitted", "finished", "failed")
    EMITTED_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    emitted: Emitted
    finished: Finished
    failed: Failed
    def __init__(self, emitted: _Optional[_Union[Emitted, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ...) -> None: ...

class Emitted(_message.Message):
    __slots__ = ("request_id", "tokens", "prefill_logprobs", "speculation", "rejected")
    class EmittedToken(_message.Message):
        __slots__ = ("id", "logprob", "drafter", "alternative_ids", "alternative_logprobs")
        ID_FIELD_NUMBER: _ClassVar[int]
        LOGPROB_FIELD_NUMBER: _ClassVar[int]
        DRAFTER_FIELD_NUMBER: _ClassVar[int]
        ALTERNATIVE_IDS_FIELD_NUMBER: _ClassVar[int]
        ALTERNATIVE_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
        id: int
        logprob: float
        drafter: str
        alternative_ids: _containers.RepeatedScalarFieldContainer[int]
        alternative_logprobs: _containers.RepeatedScalarFieldContainer[float]
        def __init__(self, id: _Optional[int] = ..., logprob: _Optional[float] = ..., drafter: _Optional[str] = ..., alternative_ids: _Optional[_Iterable[int]] = ..., alternative_logprobs: _Optional[_Iterable[float]] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    SPECULATION_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    tokens: _containers.RepeatedCompositeFieldContainer[Emitted.EmittedToken]
    prefill_logprobs: _containers.RepeatedScalarFieldContainer[float]
    speculation: _lorax_spec_pb2.SpeculationDetails
    rejected: _containers.RepeatedCompositeFieldContainer[_lorax_spec_pb2.RejectedGuess]
    def __init__(self, request_id: _Optional[int] = ..., tokens: _Optional[_Iterable[_Union[Emitted.EmittedToken, _Mapping]]] = ..., prefill_logprobs: _Optional[_Iterable[float]] = ..., speculation: _Optional[_Union[_lorax_spec_pb2.SpeculationDetails, _Mapping]] = ..., rejected: _Optional[_Iterable[_Union[_lorax_spec_pb2.RejectedGuess, _Mapping]]] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("request_id", "reason", "speculation", "timings")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SPECULATION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    reason: _lorax_spec_pb2.FinishReason
    speculation: _lorax_spec_pb2.SpeculationDetails
    timings: _lorax_spec_pb2.Timings
    def __init__(self, request_id: _Optional[int] = ..., reason: _Optional[_Union[_lorax_spec_pb2.FinishReason, str]] = ..., speculation: _Optional[_Union[_lorax_spec_pb2.SpeculationDetails, _Mapping]] = ..., timings: _Optional[_Union[_lorax_spec_pb2.Timings, _Mapping]] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("request_id", "code", "message", "field", "retry_after")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    code: int
    message: str
    field: str
    retry_after: float
    def __init__(self, request_id: _Optional[int] = ..., code: _Optional[int] = ..., message: _Optional[str] = ..., field: _Optional[str] = ..., retry_after: _Optional[float] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("running", "waiting", "free_tokens", "device_adapters")
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    FREE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    running: int
    waiting: int
    free_tokens: int
    device_adapters: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, running: _Optional[int] = ..., waiting: _Optional[int] = ..., free_tokens: _Optional[int] = ..., device_adapters: _Optional[_Iterable[str]] = ...) -> None: ...
