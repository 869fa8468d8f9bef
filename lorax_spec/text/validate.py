"""What a request must be before any engine sees it."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, replace

from lorax_spec.engine.request import TokenRequest
from lorax_spec.errors import InvalidArgument
from lorax_spec.text.merged import merged_ref
from lorax_spec.text.response_format import check_response_format
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.types import (
    BASE_MODEL,
    AdapterRef,
    GenerateRequest,
    MergedRef,
    Parameters,
    Speculation,
)

MAX_STOP_STRINGS = 16
MAX_DRAFT_TOKENS = 63
MAX_ALTERNATIVES = 100
MAX_BEST_OF = 8
#: A reference text may be so many times as long as prompt and answer together.
MAX_REFERENCE_CONTEXTS = 4
_SOURCES = ("hub", "local", "s3")


@dataclass(frozen=True)
class Limits:
    """What the server admits, in tokens, and the adapter of requests that name none."""

    max_input_length: int
    max_total_tokens: int
    default_adapter: AdapterRef | None = None


@dataclass(frozen=True)
class ValidRequest:
    """A request an engine can run; ``text`` is the prompt as text, ``prompt`` as token ids.

    ``speculation`` has no ``reference`` any more: ``reference`` holds its token ids.
    ``waited``: seconds until its adapter's chat template was there.
    """

    text: str
    prompt: tuple[int, ...]
    parameters: Parameters
    speculation: Speculation
    adapter: AdapterRef | MergedRef | None
    medusa: AdapterRef | None
    reference: tuple[int, ...] = ()
    waited: float = 0.0

    def token_request(self, request_id: int) -> TokenRequest:
        return TokenRequest(
            request_id,
            self.prompt,
            self.parameters,
            self.speculation,
            self.adapter,
            self.medusa,
            reference=self.reference,
        )


def chat_adapter(
    request: GenerateRequest, tokenizer: TextTokenizer, limits: Limits
) -> AdapterRef | None:
    """Whose chat template a request's messages are for; None: the model's, or nobody's.

    A merged adapter has no template of its own, and heads alone bring none.  Raises InvalidArgument
    where the request is wrong, so that nobody is asked for its adapter.
    """
    if not request.messages:
        return None
    _check_fields(request, tokenizer)
    adapter, _ = _adapters(request, limits.default_adapter)
    return adapter if isinstance(adapter, AdapterRef) else None


def validate(
    request: GenerateRequest,
    tokenizer: TextTokenizer,
    limits: Limits,
    rendered: str | None = None,
) -> ValidRequest:
    """Check every field, tokenize the prompt and fill in what the caller left open.

    ``rendered`` is what the adapter's chat template made of the messages; without it, the model's
    makes a prompt of them.

    The result's parameters are complete: ``max_new_tokens`` is set (default: what is left up to
    ``max_total_tokens``), ``temperature`` is 0.0 for a greedy request and positive for one that
    samples, which then has a seed.  A filter that filters nothing (``top_k`` 0, ``top_p`` 1,
    ``typical_p`` 1, ``min_p`` 0) is as good as absent.

    Raises InvalidArgument naming the wrong field.
    """
    _check_fields(request, tokenizer)
    text, prompt = _prompt(request, tokenizer, rendered)
    if len(prompt) > limits.max_input_length:
        raise _invalid(
            "inputs",
            f"has {len(prompt)} tokens, more than the {limits.max_input_length} this server takes",
        )
    parameters = replace(
        _resolve_sampling(request.parameters),
        max_new_tokens=_max_new_tokens(request.parameters, len(prompt), limits),
    )
    if (parameters.best_of or 1) > 1 and not parameters.do_sample:
        raise _invalid("parameters.best_of", "above 1 needs sampling: set `do_sample`")
    adapter, medusa = _adapters(request, limits.default_adapter)
    return ValidRequest(
        text,
        prompt,
        parameters,
        replace(request.speculation, reference=None),
        adapter,
        medusa,
        _reference(request.speculation, tokenizer, limits),
    )


def _invalid(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"`{field.rpartition('.')[2]}` {problem}", field)


def _check_fields(request: GenerateRequest, tokenizer: TextTokenizer) -> None:
    """All that needs no prompt."""
    _check_parameters(request.parameters, tokenizer.vocab_size)
    _check_speculation(request.speculation)
    if request.adapter_source and request.adapter_source not in _SOURCES:
        raise _invalid("adapter_source", f"must be one of {', '.join(_SOURCES)}")
    if request.inputs and request.messages:
        raise _invalid("messages", "cannot be given beside `inputs`")
    if not request.inputs and not request.messages:
        raise _invalid("inputs", "cannot be empty")


def _check_parameters(parameters: Parameters, vocab_size: int) -> None:
    _check_range("max_new_tokens", parameters.max_new_tokens, 1)
    _check_range("temperature", parameters.temperature, 0)
    _check_range("top_k", parameters.top_k, 0)
    _check_share("top_p", parameters.top_p)
    _check_share("typical_p", parameters.typical_p)
    _check_range("min_p", parameters.min_p, 0, 1)
    if parameters.repetition_penalty is not None and parameters.repetition_penalty <= 0:
        raise _invalid("parameters.repetition_penalty", "must be greater than 0")
    _check_range("repetition_penalty", parameters.repetition_penalty, 0)
    _check_range("frequency_penalty", parameters.frequency_penalty, -2, 2)
    _check_range("presence_penalty", parameters.presence_penalty, -2, 2)
    _check_range("seed", parameters.seed, 0, 2**64 - 1)
    _check_range("truncate", parameters.truncate, 1)
    _check_range("best_of", parameters.best_of, 1, MAX_BEST_OF)
    most = min(MAX_ALTERNATIVES, vocab_size)
    _check_range("return_k_alternatives", parameters.return_k_alternatives, 1, most)
    if parameters.response_format is not None:
        check_response_format(parameters.response_format)
    if len(parameters.stop) > MAX_STOP_STRINGS:
        raise _invalid("parameters.stop", f"takes at most {MAX_STOP_STRINGS} strings")
    if not all(parameters.stop):
        raise _invalid("parameters.stop", "must not hold an empty string")
    for token_id, bias in parameters.logit_bias.items():
        if not 0 <= token_id < vocab_size:
            raise _invalid("parameters.logit_bias", f"names token {token_id} of {vocab_size}")
        _check_range("logit_bias", bias, -100, 100)


def _check_range(
    name: str, value: float | None, low: float, high: float = math.inf, prefix: str = "parameters"
) -> None:
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise _invalid(f"{prefix}.{name}", f"must be {bounds}, not {value}")


def _check_share(name: str, value: float | None) -> None:
    if value is not None and not 0 < value <= 1:
        raise _invalid(f"parameters.{name}", f"must be above 0 and at most 1, not {value}")


def _check_speculation(speculation: Speculation) -> None:
    _check_range("num_tokens", speculation.num_tokens, 0, MAX_DRAFT_TOKENS, prefix="speculation")


def _prompt(
    request: GenerateRequest, tokenizer: TextTokenizer, rendered: str | None
) -> tuple[str, tuple[int, ...]]:
    text = request.inputs or rendered
    if text is None:
        text = tokenizer.apply_chat_template(request.messages)
    ids = tokenizer.encode(
        text,
        add_special_tokens=not request.messages,
        truncate=request.parameters.truncate,
    )
    if not ids:
        raise _invalid("inputs", "holds no token")
    return text, tuple(ids)


def _reference(
    speculation: Speculation, tokenizer: TextTokenizer, limits: Limits
) -> tuple[int, ...]:
    ids = tokenizer.encode(speculation.reference or "", add_special_tokens=False)
    most = MAX_REFERENCE_CONTEXTS * limits.max_total_tokens
    if len(ids) > most:
        raise _invalid("speculation.reference", f"has {len(ids)} tokens; {most} are the most")
    return tuple(ids)


def _max_new_tokens(parameters: Parameters, prompt_tokens: int, limits: Limits) -> int:
    left = limits.max_total_tokens - prompt_tokens
    wanted = parameters.max_new_tokens or left
    if left < 1:
        raise _invalid(
            "inputs",
            f"has {prompt_tokens} tokens and leaves no room: "
            f"prompt and answer may have {limits.max_total_tokens} together",
        )
    if wanted > left:
        raise _invalid(
            "parameters.max_new_tokens",
            f"may be at most {left}, not {wanted}: the prompt has {prompt_tokens} tokens, "
            f"and prompt and answer may have {limits.max_total_tokens} together",
        )
    return wanted


def _resolve_sampling(parameters: Parameters) -> Parameters:
    filters = replace(
        parameters,
        top_k=parameters.top_k or None,
        top_p=None if parameters.top_p == 1 else parameters.top_p,
        typical_p=None if parameters.typical_p == 1 else parameters.typical_p,
        min_p=parameters.min_p or None,
    )
    asked = (filters.temperature, filters.top_k, filters.top_p, filters.typical_p, filters.min_p)
    samples = filters.temperature != 0 and (
        filters.do_sample or any(value is not None for value in asked)
    )
    if not samples:
        return replace(filters, do_sample=False, temperature=0.0)
    return replace(
        filters,
        do_sample=True,
        temperature=1.0 if filters.temperature is None else filters.temperature,
        seed=secrets.randbits(64) if filters.seed is None else filters.seed,
    )


def _adapters(
    request: GenerateRequest, default: AdapterRef | None
) -> tuple[AdapterRef | MergedRef | None, AdapterRef | None]:
    source, token = request.adapter_source or "", request.api_token or ""
    adapter: AdapterRef | MergedRef | None = default
    if request.merged_adapters is not None:
        adapter = merged_ref(request.merged_adapters, request)
    elif request.adapter_id:
        adapter = AdapterRef(request.adapter_id, source, request.adapter_revision or "", token)
    if adapter is not None and adapter.adapter_id == BASE_MODEL:
        adapter = None
    medusa_id = request.speculation.medusa_adapter_id
    return adapter, AdapterRef(medusa_id, source, "", token) if medusa_id else None
