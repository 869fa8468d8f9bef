"""From keyword arguments, LoRAX's names among them, to a request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypedDict, TypeVar

from lorax_spec.types import (
    GenerateRequest,
    MergedAdapters,
    Message,
    Parameters,
    ResponseFormat,
    Speculation,
)

T = TypeVar("T")


class GenerateOptions(TypedDict, total=False):
    """Keyword arguments of every generating call; what is left out is the server's default.

    ``stop_sequences`` is LoRAX's name for ``stop``.  ``timeout`` is in seconds, for the whole call
    and its retries; None waits for ever.  ``best_of`` samples so many answers and gives the
    likeliest, whole calls only.  The keys of ``speculation`` are the fields of ``Speculation``,
    those of ``merged_adapters``, which stands instead of ``adapter_id``, of ``MergedAdapters``.
    """

    adapter_source: str | None
    adapter_revision: str | None
    api_token: str | None
    merged_adapters: MergedAdapters | Mapping[str, Any] | None
    max_new_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    do_sample: bool
    seed: int | None
    stop: str | Iterable[str] | None
    stop_sequences: str | Iterable[str] | None
    ignore_eos_token: bool
    truncate: int | None
    return_full_text: bool
    return_k_alternatives: int | None
    decoder_input_details: bool
    details: bool
    response_format: ResponseFormat | Mapping[str, Any] | None
    best_of: int | None
    logit_bias: Mapping[int, float]
    speculation: Speculation | Mapping[str, Any] | None
    timeout: float | None


def build_request(
    options: GenerateOptions,
    *,
    prompt: str = "",
    messages: Iterable[Message | Mapping[str, str]] = (),
    adapter_id: str | None = None,
) -> GenerateRequest:
    """Raises ``TypeError`` naming an argument that is unknown, here or in a nested mapping."""
    given: dict[str, Any] = dict(options)
    for name in given:
        if name not in GenerateOptions.__annotations__:
            raise TypeError(f"generate() got an unexpected keyword argument {name!r}")
    given.pop("timeout", None)
    return GenerateRequest(
        inputs=prompt,
        messages=tuple(_as(Message, turn) for turn in messages),
        adapter_id=adapter_id,
        adapter_source=given.pop("adapter_source", None),
        adapter_revision=given.pop("adapter_revision", None),
        api_token=given.pop("api_token", None),
        merged_adapters=_merged(given.pop("merged_adapters", None)),
        speculation=_as(Speculation, given.pop("speculation", None) or Speculation()),
        parameters=Parameters(
            stop=_stop(given.pop("stop", None), given.pop("stop_sequences", None)),
            response_format=_response_format(given.pop("response_format", None)),
            **given,
        ),
    )


def _stop(
    stop: str | Iterable[str] | None, sequences: str | Iterable[str] | None
) -> tuple[str, ...]:
    if stop is not None and sequences is not None:
        raise TypeError("stop and stop_sequences are two names of one argument: give one")
    chosen = sequences if stop is None else stop
    if chosen is None:
        return ()
    return (chosen,) if isinstance(chosen, str) else tuple(chosen)


def _merged(value: MergedAdapters | Mapping[str, Any] | None) -> MergedAdapters | None:
    if value is None:
        return None
    merged = _as(MergedAdapters, value)
    ids: Any = merged.ids
    ids = (ids,) if isinstance(ids, str) else tuple(ids)
    return replace(merged, ids=ids, weights=tuple(merged.weights or ()))


def _response_format(value: ResponseFormat | Mapping[str, Any] | None) -> ResponseFormat | None:
    if value is None:
        return None
    chosen = _as(ResponseFormat, value)
    schema: Any = "" if chosen.schema is None else chosen.schema
    return replace(chosen, schema=schema if isinstance(schema, str) else json.dumps(schema))


def _as(kind: type[T], value: T | Mapping[str, Any]) -> T:
    return kind(**value) if isinstance(value, Mapping) else value
