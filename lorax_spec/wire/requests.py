"""What is asked: ``GenerateRequest`` and its parts."""

from __future__ import annotations

from typing import Any

from lorax_spec.errors import InvalidArgument
from lorax_spec.types import (
    GenerateRequest,
    MergedAdapters,
    Message,
    Method,
    Parameters,
    ResponseFormat,
    Speculation,
)
from lorax_spec.v1 import lorax_spec_pb2 as pb
from lorax_spec.wire.fields import assign, extend, misfit, optional, optional_float, shortest

_FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
)
_INTEGERS = ("max_new_tokens", "top_k", "seed", "truncate", "return_k_alternatives", "best_of")
_SWITCHES = ("do_sample", "ignore_eos_token", "return_full_text", "decoder_input_details")


def request_to_pb(request: GenerateRequest) -> pb.GenerateRequest:
    message = pb.GenerateRequest()
    assign(
        message,
        {
            "inputs": request.inputs,
            "adapter_id": request.adapter_id,
            "adapter_source": request.adapter_source,
            "adapter_revision": request.adapter_revision,
            "api_token": request.api_token,
        },
    )
    if request.merged_adapters is not None:
        message.merged_adapters.CopyFrom(_merged_to_pb(request.merged_adapters))
    message.parameters.CopyFrom(parameters_to_pb(request.parameters))
    message.speculation.CopyFrom(speculation_to_pb(request.speculation))
    for turn in request.messages:
        assign(message.messages.add(), {"role": turn.role, "content": turn.content}, "messages.")
    return message


def request_from_pb(message: pb.GenerateRequest) -> GenerateRequest:
    return GenerateRequest(
        inputs=message.inputs,
        adapter_id=optional(message, "adapter_id"),
        adapter_source=optional(message, "adapter_source"),
        adapter_revision=optional(message, "adapter_revision"),
        api_token=optional(message, "api_token"),
        merged_adapters=(
            _merged_from_pb(message.merged_adapters)
            if message.HasField("merged_adapters")
            else None
        ),
        parameters=parameters_from_pb(message.parameters),
        speculation=speculation_from_pb(message.speculation),
        messages=tuple(Message(turn.role, turn.content) for turn in message.messages),
    )


def parameters_to_pb(parameters: Parameters) -> pb.Parameters:
    message = pb.Parameters()
    names = (*_INTEGERS, *_FLOATS, *_SWITCHES, "details")
    assign(message, {name: getattr(parameters, name) for name in names}, "parameters.")
    extend(message, "stop", parameters.stop, "parameters.")
    if parameters.response_format is not None:
        chosen = parameters.response_format
        assign(
            message.response_format,
            {"type": chosen.type, "schema": chosen.schema},
            "parameters.response_format.",
        )
        message.response_format.SetInParent()
    try:
        message.logit_bias.update(parameters.logit_bias)
    except (TypeError, ValueError) as error:
        raise misfit("parameters.logit_bias", parameters.logit_bias) from error
    return message


def parameters_from_pb(message: pb.Parameters) -> Parameters:
    chosen = message.response_format
    values: dict[str, Any] = {name: optional(message, name) for name in _INTEGERS}
    values |= {name: optional_float(message, name) for name in _FLOATS}
    values |= {name: getattr(message, name) for name in _SWITCHES}
    return Parameters(
        **values,
        details=message.details if message.HasField("details") else True,
        stop=tuple(message.stop),
        response_format=(
            ResponseFormat(chosen.type, chosen.schema)
            if message.HasField("response_format")
            else None
        ),
        logit_bias={token: shortest(bias) for token, bias in message.logit_bias.items()},
    )


def speculation_to_pb(speculation: Speculation) -> pb.Speculation:
    try:
        method = Method(speculation.method)
    except ValueError as error:
        raise misfit("speculation.method", speculation.method) from error
    message = pb.Speculation(method=method.name, show_rejected=speculation.show_rejected)
    assign(
        message,
        {
            "num_tokens": speculation.num_tokens,
            "medusa_adapter_id": speculation.medusa_adapter_id,
            "reference": speculation.reference,
        },
        "speculation.",
    )
    return message


def speculation_from_pb(message: pb.Speculation) -> Speculation:
    if message.method not in pb.Speculation.Method.values():
        raise InvalidArgument(
            f"speculation.method {message.method} is not known here", field="speculation.method"
        )
    return Speculation(
        method=Method[pb.Speculation.Method.Name(message.method)],
        num_tokens=optional(message, "num_tokens"),
        medusa_adapter_id=optional(message, "medusa_adapter_id"),
        reference=optional(message, "reference"),
        show_rejected=message.show_rejected,
    )


def _merged_to_pb(merged: MergedAdapters) -> pb.MergedAdapters:
    message = pb.MergedAdapters()
    path = "merged_adapters."
    extend(message, "ids", merged.ids, path)
    extend(message, "weights", merged.weights, path)
    names = ("merge_strategy", "density", "majority_sign_method")
    assign(message, {name: getattr(merged, name) for name in names}, path)
    return message


def _merged_from_pb(message: pb.MergedAdapters) -> MergedAdapters:
    return MergedAdapters(
        ids=tuple(message.ids),
        weights=tuple(shortest(weight) for weight in message.weights),
        merge_strategy=message.merge_strategy or "linear",
        density=optional_float(message, "density"),
        majority_sign_method=message.majority_sign_method or "total",
    )
