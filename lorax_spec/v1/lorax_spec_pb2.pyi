from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    LENGTH: _ClassVar[FinishReason]
    EOS_TOKEN: _ClassVar[FinishReason]
    STOP_SEQUENCE: _ClassVar[FinishReason]
FINISH_REASON_UNSPECIFIED: FinishReason
LENGTH: FinishReason
EOS_TOKEN: FinishReason
STOP_SEQUENCE: FinishReason

class GenerateRequest(_message.Message):
    __slots__ = ("inputs", "adapter_id", "adapter_source", "adapter_revision", "api_token", "merged_adapters", "parameters", "speculation", "messages")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_SOURCE_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_REVISION_FIELD_NUMBER: _ClassVar[int]
    API_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MERGED_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SPECULATION_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    inputs: str
    adapter_id: str
    adapter_source: str
    adapter_revision: str
    api_token: str
    merged_adapters: MergedAdapters
    parameters: Parameters
    speculation: Speculation
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    def __init__(self, inputs: _Optional[str] = ..., adapter_id: _Optional[str] = ..., adapter_source: _Optional[str] = ..., adapter_revision: _Optional[str] = ..., api_token: _Optional[str] = ..., merged_adapters: _Optional[_Union[MergedAdapters, _Mapping]] = ..., parameters: _Optional[_Union[Parameters, _Mapping]] = ..., speculation: _Optional[_Union[Speculation, _Mapping]] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("role", "content")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ...) -> None: ...

class MergedAdapters(_message.Message):
    __slots__ = ("ids", "weights", "merge_strategy", "density", "majority_sign_method")
    IDS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    MERGE_STRATEGY_FIELD_NUMBER: _ClassVar[int]
    DENSITY_FIELD_NUMBER: _ClassVar[int]
    MAJORITY_SIGN_METHOD_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    weights: _containers.RepeatedScalarFieldContainer[float]
    merge_strategy: str
    density: float
    majority_sign_method: str
    def __init__(self, ids: _Optional[_Iterable[str]] = ..., weights: _Optional[_Iterable[float]] = ..., merge_strategy: _Optional[str] = ..., density: _Optional[float] = ..., majority_sign_method: _Optional[str] = ...) -> None: ...

class Parameters(_message.Message):
    __slots__ = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "do_sample", "seed", "stop", "ignore_eos_token", "truncate", "return_full_text", "return_k_alternatives", "decoder_input_details", "details", "response_format", "best_of", "logit_bias")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    TYPICAL_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    DO_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TRUNCATE_FIELD_NUMBER: _ClassVar[int]
    RETURN_FULL_TEXT_FIELD_NUMBER: _ClassVar[int]
    RETURN_K_ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    DECODER_INPUT_DETAILS_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FORMAT_FIELD_NUMBER: _ClassVar[int]
    BEST_OF_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    do_sample: bool
    seed: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    ignore_eos_token: bool
    truncate: int
    return_full_text: bool
    return_k_alternatives: int
    decoder_input_details: bool
    details: bool
    response_format: ResponseFormat
    best_of: int
    logit_bias: _containers.ScalarMap[int, float]
    def __init__(self, max_new_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., typical_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., do_sample: bool = ..., seed: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., ignore_eos_token: bool = ..., truncate: _Optional[int] = ..., return_full_text: bool = ..., return_k_alternatives: _Optional[int] = ..., decoder_input_details: bool = ..., details: bool = ..., response_format: _Optional[_Union[ResponseFormat, _Mapping]] = ..., best_of: _Optional[int] = ..., logit_bias: _Optional[_Mapping[int, float]] = ...) -> None: ...

class ResponseFormat(_message.Message):
    __slots__ = ("type", "schema")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    type: str
    schema: str
    def __init__(self, type: _Optional[str] = ..., schema: _Optional[str] = ...) -> None: ...

class Speculation(_message.Message):
    __slots__ = ("method", "num_tokens", "medusa_adapter_id", "reference", "show_rejected")
    class Method(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        AUTO: _ClassVar[Speculation.Method]
        NONE: _ClassVar[Speculation.Method]
        MEDUSA: _ClassVar[Speculation.Method]
        PROMPT_LOOKUP: _ClassVar[Speculation.Method]
        DRAFT_MODEL: _ClassVar[Speculation.Method]
        LOOKAHEAD: _ClassVar[Speculation.Method]
    AUTO: Speculation.Method
    NONE: Speculation.Method
    MEDUSA: Speculation.Method
    PROMPT_LOOKUP: Speculation.Method
    DRAFT_MODEL: Speculation.Method
    LOOKAHEAD: Speculation.Method
    METHOD_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MEDUSA_ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    SHOW_REJECTED_FIELD_NUMBER: _ClassVar[int]
    method: Speculation.Method
    num_tokens: int
    medusa_adapter_id: str
    reference: str
    show_rejected: bool
    def __init__(self, method: _Optional[_Union[Speculation.Method, str]] = ..., num_tokens: _Optional[int] = ..., medusa_adapter_id: _Optional[str] = ..., reference: _Optional[str] = ..., show_rejected: bool = ...) -> None: ...

class RejectedGuess(_message.Message):
    __slots__ = ("ahead", "id", "text", "drafter")
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DRAFTER_FIELD_NUMBER: _ClassVar[int]
    ahead: int
    id: int
    text: str
    drafter: str
    def __init__(self, ahead: _Optional[int] = ..., id: _Optional[int] = ..., text: _Optional[str] = ..., drafter: _Optional[str] = ...) -> None: ...

class Token(_message.Message):
    __slots__ = ("id", "text", "logprob", "special", "skipped", "drafter", "alternative_tokens")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    DRAFTER_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    id: int
    text: str
    logprob: float
    special: bool
    skipped: bool
    drafter: str
    alternative_tokens: _containers.RepeatedCompositeFieldContainer[AlternativeToken]
    def __init__(self, id: _Optional[int] = ..., text: _Optional[str] = ..., logprob: _Optional[float] = ..., special: bool = ..., skipped: bool = ..., drafter: _Optional[str] = ..., alternative_tokens: _Optional[_Iterable[_Union[AlternativeToken, _Mapping]]] = ...) -> None: ...

class AlternativeToken(_message.Message):
    __slots__ = ("id", "text", "logprob")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    id: int
    text: str
    logprob: float
    def __init__(self, id: _Optional[int] = ..., text: _Optional[str] = ..., logprob: _Optional[float] = ...) -> None: ...

class PrefillToken(_message.Message):
    __slots__ = ("id", "text", "logprob")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    id: int
    text: str
    logprob: float
    def __init__(self, id: _Optional[int] = ..., text: _Optional[str] = ..., logprob: _Optional[float] = ...) -> None: ...

class DrafterCounts(_message.Message):
    __slots__ = ("drafted_tokens", "accepted_tokens", "drafted_by_depth", "accepted_by_depth")
    DRAFTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_BY_DEPTH_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_BY_DEPTH_FIELD_NUMBER: _ClassVar[int]
    drafted_tokens: int
    accepted_tokens: int
    drafted_by_depth: _containers.RepeatedScalarFieldContainer[int]
    accepted_by_depth: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, drafted_tokens: _Optional[int] = ..., accepted_tokens: _Optional[int] = ..., drafted_by_depth: _Optional[_Iterable[int]] = ..., accepted_by_depth: _Optional[_Iterable[int]] = ...) -> None: ...

class SpeculationDetails(_message.Message):
    __slots__ = ("drafted_tokens", "accepted_tokens", "forward_passes", "drafters")
    class DraftersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: DrafterCounts
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[DrafterCounts, _Mapping]] = ...) -> None: ...
    DRAFTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FORWARD_PASSES_FIELD_NUMBER: _ClassVar[int]
    DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    drafted_tokens: int
    accepted_tokens: int
    forward_passes: int
    drafters: _containers.MessageMap[str, DrafterCounts]
    def __init__(self, drafted_tokens: _Optional[int] = ..., accepted_tokens: _Optional[int] = ..., forward_passes: _Optional[int] = ..., drafters: _Optional[_Mapping[str, DrafterCounts]] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue", "adapter_load", "prefill", "first_token", "per_token", "total")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_LOAD_FIELD_NUMBER: _ClassVar[int]
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    queue: float
    adapter_load: float
    prefill: float
    first_token: float
    per_token: float
    total: float
    def __init__(self, queue: _Optional[float] = ..., adapter_load: _Optional[float] = ..., prefill: _Optional[float] = ..., first_token: _Optional[float] = ..., per_token: _Optional[float] = ..., total: _Optional[float] = ...) -> None: ...

class Details(_message.Message):
    __slots__ = ("finish_reason", "prompt_tokens", "generated_tokens", "skipped_tokens", "seed", "prefill", "tokens", "speculation", "timings")
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SPECULATION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    finish_reason: FinishReason
    prompt_tokens: int
    generated_tokens: int
    skipped_tokens: int
    seed: int
    prefill: _containers.RepeatedCompositeFieldContainer[PrefillToken]
    tokens: _containers.RepeatedCompositeFieldContainer[Token]
    speculation: SpeculationDetails
    timings: Timings
    def __init__(self, finish_reason: _Optional[_Union[FinishReason, str]] = ..., prompt_tokens: _Optional[int] = ..., generated_tokens: _Optional[int] = ..., skipped_tokens: _Optional[int] = ..., seed: _Optional[int] = ..., prefill: _Optional[_Iterable[_Union[PrefillToken, _Mapping]]] = ..., tokens: _Optional[_Iterable[_Union[Token, _Mapping]]] = ..., speculation: _Optional[_Union[SpeculationDetails, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("generated_text", "details")
    GENERATED_TEXT_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    generated_text: str
    details: Details
    def __init__(self, generated_text: _Optional[str] = ..., details: _Optional[_Union[Details, _Mapping]] = ...) -> None: ...

class GenerateStreamResponse(_message.Message):
    __slots__ = ("token", "generated_text", "details", "rejected")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TEXT_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    token: Token
    generated_text: str
    details: Details
    rejected: _containers.RepeatedCompositeFieldContainer[RejectedGuess]
    def __init__(self, token: _Optional[_Union[Token, _Mapping]] = ..., generated_text: _Optional[str] = ..., details: _Optional[_Union[Details, _Mapping]] = ..., rejected: _Optional[_Iterable[_Union[RejectedGuess, _Mapping]]] = ...) -> None: ...

class TokenizeRequest(_message.Message):
    __slots__ = ("inputs", "add_special_tokens")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    ADD_SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    inputs: str
    add_special_tokens: bool
    def __init__(self, inputs: _Optional[str] = ..., add_special_tokens: bool = ...) -> None: ...

class TokenizeResponse(_message.Message):
    __slots__ = ("tokens",)
    class Piece(_message.Message):
        __slots__ = ("id", "text", "start", "stop")
        ID_FIELD_NUMBER: _ClassVar[int]
        TEXT_FIELD_NUMBER: _ClassVar[int]
        START_FIELD_NUMBER: _ClassVar[int]
        STOP_FIELD_NUMBER: _ClassVar[int]
        id: int
        text: str
        start: int
        stop: int
        def __init__(self, id: _Optional[int] = ..., text: _Optional[str] = ..., start: _Optional[int] = ..., stop: _Optional[int] = ...) -> None: ...
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[TokenizeResponse.Piece]
    def __init__(self, tokens: _Optional[_Iterable[_Union[TokenizeResponse.Piece, _Mapping]]] = ...) -> None: ...

class InfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InfoResponse(_message.Message):
    __slots__ = ("version", "model_id", "model_revision", "dtype", "device", "max_input_length", "max_total_tokens", "max_concurrent_requests", "speculative_tokens", "deterministic", "default_adapter_id", "workers", "max_batch_total_tokens", "block_size", "model_path")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MAX_INPUT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_TOTAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENT_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    SPECULATIVE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DETERMINISTIC_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_TOTAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    MODEL_PATH_FIELD_NUMBER: _ClassVar[int]
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
    def __init__(self, version: _Optional[str] = ..., model_id: _Optional[str] = ..., model_revision: _Optional[str] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., max_input_length: _Optional[int] = ..., max_total_tokens: _Optional[int] = ..., max_concurrent_requests: _Optional[int] = ..., speculative_tokens: _Optional[int] = ..., deterministic: bool = ..., default_adapter_id: _Optional[str] = ..., workers: _Optional[int] = ..., max_batch_total_tokens: _Optional[int] = ..., block_size: _Optional[int] = ..., model_path: _Optional[str] = ...) -> None: ...

class Adapter(_message.Message):
    __slots__ = ("adapter_id", "kind", "state", "tier", "bytes", "pinned", "source", "revision", "in_use", "error", "rank", "medusa_heads", "last_used", "load", "drafters", "scope")
    class DraftersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: DrafterCounts
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[DrafterCounts, _Mapping]] = ...) -> None: ...
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    IN_USE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    MEDUSA_HEADS_FIELD_NUMBER: _ClassVar[int]
    LAST_USED_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
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
    drafters: _containers.MessageMap[str, DrafterCounts]
    scope: str
    def __init__(self, adapter_id: _Optional[str] = ..., kind: _Optional[str] = ..., state: _Optional[str] = ..., tier: _Optional[str] = ..., bytes: _Optional[int] = ..., pinned: bool = ..., source: _Optional[str] = ..., revision: _Optional[str] = ..., in_use: _Optional[int] = ..., error: _Optional[str] = ..., rank: _Optional[int] = ..., medusa_heads: _Optional[int] = ..., last_used: _Optional[float] = ..., load: _Optional[_Union[LoadTimes, _Mapping]] = ..., drafters: _Optional[_Mapping[str, DrafterCounts]] = ..., scope: _Optional[str] = ...) -> None: ...

class LoadTimes(_message.Message):
    __slots__ = ("fetch", "read", "copy")
    FETCH_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    COPY_FIELD_NUMBER: _ClassVar[int]
    fetch: float
    read: float
    copy: float
    def __init__(self, fetch: _Optional[float] = ..., read: _Optional[float] = ..., copy: _Optional[float] = ...) -> None: ...

class ListAdaptersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAdaptersResponse(_message.Message):
    __slots__ = ("adapters",)
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedCompositeFieldContainer[Adapter]
    def __init__(self, adapters: _Optional[_Iterable[_Union[Adapter, _Mapping]]] = ...) -> None: ...

class LoadAdapterRequest(_message.Message):
    __slots__ = ("adapter_id", "adapter_source", "adapter_revision", "api_token", "wait")
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_SOURCE_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_REVISION_FIELD_NUMBER: _ClassVar[int]
    API_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    adapter_source: str
    adapter_revision: str
    api_token: str
    wait: bool
    def __init__(self, adapter_id: _Optional[str] = ..., adapter_source: _Optional[str] = ..., adapter_revision: _Optional[str] = ..., api_token: _Optional[str] = ..., wait: bool = ...) -> None: ...

class LoadAdapterResponse(_message.Message):
    __slots__ = ("adapter",)
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    adapter: Adapter
    def __init__(self, adapter: _Optional[_Union[Adapter, _Mapping]] = ...) -> None: ...

class UnloadAdapterRequest(_message.Message):
    __slots__ = ("adapter_id",)
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    def __init__(self, adapter_id: _Optional[str] = ...) -> None: ...

class UnloadAdapterResponse(_message.Message):
    __slots__ = ("adapter",)
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    adapter: Adapter
    def __init__(self, adapter: _Optional[_Union[Adapter, _Mapping]] = ...) -> None: ...

class PinAdapterRequest(_message.Message):
    __slots__ = ("adapter_id", "pinned")
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    pinned: bool
    def __init__(self, adapter_id: _Optional[str] = ..., pinned: bool = ...) -> None: ...

class PinAdapterResponse(_message.Message):
    __slots__ = ("adapter",)
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    adapter: Adapter
    def __init__(self, adapter: _Optional[_Union[Adapter, _Mapping]] = ...) -> None: ...
