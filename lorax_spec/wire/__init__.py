"""The only place where our own types become protobuf messages, and back.

Each ``x_to_pb`` has its ``x_from_pb``; a value survives the way there and back.  Reading a message
that says something impossible raises ``InvalidArgument`` naming the field.
"""

from lorax_spec.wire.errors import error_of, is_answer, status_of
from lorax_spec.wire.requests import (
    parameters_from_pb,
    parameters_to_pb,
    request_from_pb,
    request_to_pb,
    speculation_from_pb,
    speculation_to_pb,
)
from lorax_spec.wire.responses import (
    adapter_info_from_pb,
    adapter_info_to_pb,
    details_from_pb,
    details_to_pb,
    info_from_pb,
    info_to_pb,
    input_tokens_from_pb,
    input_tokens_to_pb,
    response_from_pb,
    response_to_pb,
    stream_from_pb,
    stream_to_pb,
)
from lorax_spec.wire.worker import (
    WorkerLoad,
    WorkerReport,
    adapter_chat_from_pb,
    adapter_chat_to_pb,
    adapter_ref_from_pb,
    adapter_ref_to_pb,
    report_from_pb,
    report_to_pb,
    submit_from_pb,
    submit_to_pb,
)

__all__ = [
    "WorkerLoad",
    "WorkerReport",
    "adapter_chat_from_pb",
    "adapter_chat_to_pb",
    "adapter_info_from_pb",
    "adapter_info_to_pb",
    "adapter_ref_from_pb",
    "adapter_ref_to_pb",
    "details_from_pb",
    "details_to_pb",
    "error_of",
    "info_from_pb",
    "info_to_pb",
    "input_tokens_from_pb",
    "input_tokens_to_pb",
    "is_answer",
    "parameters_from_pb",
    "parameters_to_pb",
    "report_from_pb",
    "report_to_pb",
    "request_from_pb",
    "request_to_pb",
    "response_from_pb",
    "response_to_pb",
    "speculation_from_pb",
    "speculation_to_pb",
    "status_of",
    "stream_from_pb",
    "stream_to_pb",
    "submit_from_pb",
    "submit_to_pb",
]
