"""Every call as data: which method, what is sent, how the answer is read.

Both clients send these; neither knows a message type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lorax_spec import wire
from lorax_spec.client.arguments import GenerateOptions, build_request
from lorax_spec.types import (
    AdapterInfo,
    GenerateRequest,
    Info,
    InputToken,
    Message,
    Response,
    StreamResponse,
)
from lorax_spec.v1 import lorax_spec_pb2 as pb

Answer = TypeVar("Answer")

#: Stands for "the client's own timeout", since None means none.
DEFAULT = -1.0


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """``timeout`` in seconds; ``read`` turns one message of the answer into our own type."""

    method: str
    request: Any
    read: Callable[[Any], Answer]
    timeout: float | None = DEFAULT


def generate(prompt: str, adapter_id: str | None, options: GenerateOptions) -> Call[Response]:
    request = build_request(options, prompt=prompt, adapter_id=adapter_id)
    return _generate(request, options)


def chat(
    messages: Iterable[Message | Mapping[str, str]],
    adapter_id: str | None,
    options: GenerateOptions,
) -> Call[Response]:
    request = build_request(options, messages=messages, adapter_id=adapter_id)
    return _generate(request, options)


def streamed(call: Call[Response]) -> Call[StreamResponse]:
    """The same request, answered token by token."""
    return Call("GenerateStream", call.request, wire.stream_from_pb, call.timeout)


def info() -> Call[Info]:
    return Call("Info", pb.InfoRequest(), wire.info_from_pb)


def tokenize(text: str, add_special_tokens: bool) -> Call[tuple[InputToken, ...]]:
    request = pb.TokenizeRequest(inputs=text, add_special_tokens=add_special_tokens)
    return Call("Tokenize", request, wire.input_tokens_from_pb)


def list_adapters() -> Call[list[AdapterInfo]]:
    def read(message: pb.ListAdaptersResponse) -> list[AdapterInfo]:
        return [wire.adapter_info_from_pb(adapter) for adapter in message.adapters]

    return Call("ListAdapters", pb.ListAdaptersRequest(), read)


def load_adapter(
    adapter_id: str,
    adapter_source: str | None,
    adapter_revision: str | None,
    api_token: str | None,
    wait: bool,
) -> Call[AdapterInfo]:
    request = pb.LoadAdapterRequest(
        adapter_id=adapter_id,
        adapter_source=adapter_source,
        adapter_revision=adapter_revision,
        api_token=api_token,
        wait=wait,
    )
    return Call("LoadAdapter", request, _adapter)


def unload_adapter(adapter_id: str) -> Call[AdapterInfo]:
    return Call("UnloadAdapter", pb.UnloadAdapterRequest(adapter_id=adapter_id), _adapter)


def pin_adapter(adapter_id: str, pinned: bool) -> Call[AdapterInfo]:
    request = pb.PinAdapterRequest(adapter_id=adapter_id, pinned=pinned)
    return Call("PinAdapter", request, _adapter)


def _generate(request: GenerateRequest, options: GenerateOptions) -> Call[Response]:
    timeout = options.get("timeout", DEFAULT)
    return Call("Generate", wire.request_to_pb(request), wire.response_from_pb, timeout)


def _adapter(
    message: pb.LoadAdapterResponse | pb.UnloadAdapterResponse | pb.PinAdapterResponse,
) -> AdapterInfo:
    return wire.adapter_info_from_pb(message.adapter)
