"""What the engine drafts, against transformers' hidden states and plain heads over them.

Correct verification hides wrong drafts, so they are compared themselves.
"""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from lorax_spec import embedded
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.drafting.drafts_old import drafter_of
from lorax_spec.engine.sequence import Sequence
from lorax_spec.types import Method, Speculation
from tests.conformance.running import run
from tests.engine.conftest import NewRequest
from tests.engine.reference import reference
from tests.engine.watch import looking

Prompts = dict[str, list[tuple[int, ...]]]


@torch.inference_mode()
def guesses(adapter: str, tokens: list[int]) -> torch.Tensor:
    """Each head's ranking of the tokens after the next one [heads, vocabulary], best first; the
    heads read the state from which the last of ``tokens`` was chosen."""
    folder = embedded.path() / "adapters" / adapter
    heads = json.loads((folder / "config.json").read_text())["medusa_num_heads"]
    weights = load_file(folder / "medusa_lm_head.safetensors")
    model = reference()
    output = model(torch.tensor([tokens[:-1]]), output_hidden_states=True)
    hidden = output.hidden_states[-1][0, -1]
    rankings = []
    for head in range(heads):
        linear = weights[f"{head}.0.linear.weight"].float() @ hidden
        state = hidden + F.silu(linear + weights[f"{head}.0.linear.bias"].float())
        own = weights.get(f"{head}.1.weight")
        logits = model.lm_head(state) if own is None else own.float() @ state
        rankings.append(logits.argsort(descending=True))
    return torch.stack(rankings)


@pytest.mark.parametrize("adapter", ["medusa", "medusa-v1"])
def test_heads_read_the_row_the_last_token_was_chosen_from(
    core: EngineCore, prompts: Prompts, new_request: NewRequest, adapter: str
) -> None:
    """Also after accepted drafts, and beside sequences of other heads."""
    seen: dict[int, list[tuple[list[int], tuple[int, ...]]]] = {}

    def look(sequence: Sequence) -> None:
        if sequence.draft:
            drafts = seen.setdefault(sequence.request.request_id, [])
            drafts.append((list(sequence.tokens), sequence.draft.tokens))

    request = new_request(prompts["rename"][0], 16, Method.MEDUSA, 2, adapter)
    other = new_request(prompts["rename"][3], 16, Method.MEDUSA, 2, "pirate-medusa")
    twin = new_request(prompts["rename"][1][:50], 16, Method.MEDUSA, 2, adapter)
    with looking(core, look):
        outcomes = run(core, [other, request, twin])
    assert outcomes[1].speculation.accepted_tokens > 3
    for one in (request, twin):
        for tokens, drafted in seen[one.request_id]:
            assert list(drafted) == guesses(adapter, tokens)[: len(drafted), 0].tolist()


@pytest.mark.parametrize("method", [Method.MEDUSA, Method.PROMPT_LOOKUP])
@pytest.mark.parametrize("number", [4, 9])
def test_drafts_go_no_deeper_than_there_is_room(
    core: EngineCore, prompts: Prompts, new_request: NewRequest, method: Method, number: int
) -> None:
    """The last token of a request needs no guess after it."""

    def look(sequence: Sequence) -> None:
        assert max(sequence.draft.depths, default=0) <= sequence.draft_room

    with looking(core, look):
        for new_tokens in (2, 3, 4, 5, 9):
            run(core, [new_request(prompts["rename"][0], new_tokens, method, number, "medusa")])


@pytest.mark.slow
def test_drafts_are_accepted(core: EngineCore, prompts: Prompts, new_request: NewRequest) -> None:
    """Tokens per forward, a little below the model card's figures."""

    def per_pass(method: Method, number: int, adapter: str | None) -> float:
        requests = [
            new_request(prompt, 40, method, number, adapter) for prompt in prompts["rename"][:6]
        ]
        outcomes = run(core, requests)
        tokens = sum(len(outcome.ids) for outcome in outcomes)
        return tokens / sum(outcome.speculation.forward_passes for outcome in outcomes)

    chain, tree = per_pass(Method.MEDUSA, 3, "medusa"), per_pass(Method.MEDUSA, 7, "medusa")
    assert chain > 1.6
    assert tree > chain
    assert per_pass(Method.PROMPT_LOOKUP, 5, None) > 2.5


@pytest.mark.parametrize(
    ("method", "number", "has_heads", "server", "expected"),
    [
        (Method.AUTO, None, True, 0, Method.MEDUSA),
        (Method.AUTO, None, False, 0, Method.NONE),
        (Method.AUTO, None, False, 3, Method.PROMPT_LOOKUP),
        (Method.AUTO, 4, False, 0, Method.PROMPT_LOOKUP),
        (Method.AUTO, 0, False, 0, Method.NONE),
        (Method.NONE, 4, True, 3, Method.NONE),
        (Method.MEDUSA, None, True, 0, Method.MEDUSA),
        (Method.PROMPT_LOOKUP, None, True, 0, Method.PROMPT_LOOKUP),
    ],
)
def test_who_drafts(
    method: Method, number: int | None, has_heads: bool, server: int, expected: Method
) -> None:
    assert drafter_of(Speculation(method, number), has_heads, server) is expected
