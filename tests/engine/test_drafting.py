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
from lorax_spec.engine.drafting.eligible import eligible
from lorax_spec.engine.sequence import Sequence
from lorax_spec.types import DrafterCounts, Method, Speculation
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
            assert {drafted[0], drafted[1]} <= set(
                guesses(adapter, tokens)[:, :2].flatten().tolist()
            )
            assert drafted[0] == guesses(adapter, tokens)[0, 0]


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


EVERYBODY = {"grammar", "prompt_lookup", "lookahead", "medusa", "hydra", "draft_model"}


@pytest.mark.parametrize(
    ("method", "number", "heads", "server", "expected"),
    [
        (Method.AUTO, None, "medusa", False, {"medusa"}),
        (Method.AUTO, None, "hydra", True, {"hydra", "prompt_lookup", "draft_model"}),
        (Method.AUTO, None, "", False, set()),
        (Method.AUTO, None, "", True, {"prompt_lookup", "draft_model"}),
        (Method.AUTO, 4, "", False, {"prompt_lookup", "draft_model"}),
        (Method.AUTO, 4, "medusa", False, {"medusa"}),
        (Method.AUTO, 0, "", False, set()),
        (Method.NONE, 4, "medusa", True, set()),
        (Method.MEDUSA, None, "hydra", True, {"hydra"}),
        (Method.PROMPT_LOOKUP, None, "medusa", False, {"prompt_lookup"}),
        (Method.DRAFT_MODEL, None, "medusa", True, {"draft_model"}),
        (Method.LOOKAHEAD, None, "", False, {"lookahead"}),
    ],
)
def test_who_drafts(
    method: Method, number: int | None, heads: str, server: bool, expected: set[str]
) -> None:
    """And the grammar of a constrained request, unless nobody is to draft."""
    speculation = Speculation(method, number)
    kinds = [heads] if heads else []
    assert eligible(speculation, kinds, False, server, EVERYBODY) == expected
    forced = set() if method is Method.NONE else {"grammar"}
    assert eligible(speculation, kinds, True, server, EVERYBODY) == expected | forced
    assert eligible(speculation, kinds, False, server, {"grammar"}) == set()


def test_each_request_drafts_as_it_asks(
    core: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    """Different methods and numbers in one batch (issue 3, must show 6)."""
    prompt = prompts["rename"][0]
    asked = {
        "medusa": new_request(prompt, 24, Method.MEDUSA, 4, "medusa"),
        "prompt_lookup": new_request(prompt, 24, Method.PROMPT_LOOKUP, 7),
        "none": new_request(prompt, 24, Method.NONE, 5, "medusa"),
        "lookahead": new_request(prompt, 24, Method.LOOKAHEAD, 12),
        "zero": new_request(prompt, 24, Method.PROMPT_LOOKUP, 0),
        "auto": new_request(prompt, 24, Method.AUTO, 3, "medusa"),
    }
    widths: dict[int, set[int]] = {}

    def look(sequence: Sequence) -> None:
        sizes = widths.setdefault(sequence.request.request_id, set())
        if sequence.draft_room > 6:
            sizes.add(len(sequence.draft))

    with looking(core, look):
        outcomes = dict(zip(asked, run(core, list(asked.values())), strict=True))
    drafted = {name: widths[request.request_id] for name, request in asked.items()}
    assert drafted["medusa"] == {4}
    assert drafted["auto"] == {3}
    assert drafted["prompt_lookup"] <= {0, 7}
    assert 7 in drafted["prompt_lookup"]
    assert max(drafted["lookahead"]) <= 12
    assert drafted["none"] == drafted["zero"] == {0}
    for name in ("medusa", "prompt_lookup", "lookahead"):
        assert set(outcomes[name].speculation.drafters) == {name}
    for name in ("none", "zero"):
        assert outcomes[name].speculation.drafted_tokens == 0
        assert outcomes[name].speculation.forward_passes == 24
    assert len({tuple(outcome.ids) for outcome in outcomes.values()}) == 1


def test_counts_add_up(core: EngineCore, prompts: Prompts, new_request: NewRequest) -> None:
    """By depth, by drafter, and over the requests of an adapter."""
    before = core.speculation_figures().get(("pirate-medusa", "medusa"), DrafterCounts())
    requests = [
        new_request(prompts["rename"][i], 24, Method.MEDUSA, 6, "pirate-medusa") for i in range(2)
    ]
    outcomes = run(core, requests)
    for outcome in outcomes:
        counts = outcome.speculation.drafters["medusa"]
        assert sum(counts.drafted_by_depth) == counts.drafted_tokens
        assert sum(counts.accepted_by_depth) == counts.accepted_tokens
        passes = outcome.speculation.forward_passes
        assert counts.accepted_tokens + passes == len(outcome.ids)
        assert all(accepted <= passes for accepted in counts.accepted_by_depth)
    after = core.speculation_figures()["pirate-medusa", "medusa"]
    assert after.drafted_tokens - before.drafted_tokens == sum(
        outcome.speculation.drafted_tokens for outcome in outcomes
    )
