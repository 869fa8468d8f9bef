"""Before a sequence can run: its adapters' weights, its grammar, and who may draft for it."""

from __future__ import annotations

from collections.abc import Collection

from lorax_spec.engine.drafting.eligible import HYDRA, MEDUSA, eligible
from lorax_spec.engine.grammar.compiling import Grammars
from lorax_spec.engine.request import TokenRequest
from lorax_spec.engine.sequence import Sequence
from lorax_spec.errors import AdapterMismatch, InvalidArgument, LoraxSpecError, Unimplemented
from lorax_spec.types import AdapterRef, MergedRef, Method


def fault(
    request: TokenRequest, max_total_tokens: int, vocabulary: int, drafters: Collection[str]
) -> LoraxSpecError | None:
    """Why an engine can never run ``request``; it would wait for ever, or end the engine."""
    method = request.speculation.method
    if method is Method.DRAFT_MODEL and method.value not in drafters:
        return Unimplemented("this server has no draft model (--draft-model-id)")
    if not 0 < len(request.prompt) < max_total_tokens:
        text = f"a prompt of {len(request.prompt)} tokens, not 1 to {max_total_tokens - 1}"
        return InvalidArgument(text, "inputs")
    outside = f"a token is not in the vocabulary of {vocabulary}"
    if not all(0 <= token < vocabulary for token in (*request.prompt, *request.generated)):
        return InvalidArgument(outside, "inputs")
    if not all(0 <= token < vocabulary for token in request.reference):
        return InvalidArgument(outside, "speculation.reference")
    for token in request.parameters.logit_bias:
        if not 0 <= token < vocabulary:
            message = f"token {token} is not in the vocabulary of {vocabulary}"
            return InvalidArgument(message, "parameters.logit_bias")
    return None


def bind(
    sequence: Sequence, grammars: Grammars, server_drafts: bool, drafters: Collection[str]
) -> LoraxSpecError | None:
    """Hand a settled sequence what it waited for; says what is wrong where it cannot run.

    ``server_drafts``: the server drafts for requests that do not say; ``drafters``: those it has.
    """
    error = sequence.lease.error or _start_grammar(sequence, grammars) or _take_weights(sequence)
    if error is not None:
        return error
    kinds = {MEDUSA: sequence.heads, HYDRA: sequence.hydra}
    sequence.drafters = eligible(
        sequence.request.speculation,
        [kind for kind, weights in kinds.items() if weights is not None],
        sequence.grammar is not None,
        server_drafts,
        drafters,
    )
    return None


def unbind(sequence: Sequence) -> None:
    """Let go of what ``bind`` gave; what comes back later may be another content."""
    sequence.lora = sequence.heads = sequence.hydra = None
    sequence.grammar = None
    sequence.identity, sequence.hashes = "", []


def _start_grammar(sequence: Sequence, grammars: Grammars) -> LoraxSpecError | None:
    """Take a compiled grammar to where the generated tokens are; says what is wrong with it."""
    compiling = sequence.compiling
    if compiling is None:
        return None
    if not compiling.ready:
        return compiling.error
    try:
        sequence.grammar = grammars.start(compiling, sequence.request.generated)
    except InvalidArgument as error:
        return error
    return None


def _take_weights(sequence: Sequence) -> LoraxSpecError | None:
    """Take the weights of a ready lease; says what is wrong where they are not what was asked."""
    weights = iter(sequence.lease.weights)
    request = sequence.request
    if request.adapter is not None:
        adapter = next(weights)
        sequence.lora, sequence.heads = adapter.lora, adapter.medusa
        sequence.hydra = adapter.hydra
        sequence.identity = adapter.fingerprint if adapter.lora is not None else ""
    if request.medusa is not None:
        paired = next(weights)
        sequence.heads, sequence.hydra = paired.medusa, paired.hydra
        if paired.heads is None:
            return _no_heads(request.medusa)
    has_heads = sequence.heads is not None or sequence.hydra is not None
    if request.speculation.method is Method.MEDUSA and not has_heads:
        return _no_heads(request.adapter)
    return None


def _no_heads(reference: AdapterRef | MergedRef | None) -> AdapterMismatch:
    name = f"adapter {reference.adapter_id!r}" if reference else "the base model"
    return AdapterMismatch(f"{name} has no Medusa or Hydra heads to draft with")
