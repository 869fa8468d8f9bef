"""Prompts: their log-probabilities, and what of them need not be computed again."""

from __future__ import annotations

import pytest
import torch

from lorax_spec.engine.core import EngineCore
from lorax_spec.speculation.tree import chain
from tests.conformance.running import run
from tests.engine.conftest import NewRequest
from tests.engine.reference import reference
from tests.engine.watch import Rows, drafting, planned

Prompts = dict[str, list[tuple[int, ...]]]


@torch.inference_mode()
def transformers_logprobs(prompt: tuple[int, ...]) -> list[float]:
    logprobs = reference()(torch.tensor([prompt])).logits[0].log_softmax(-1)
    return [float(logprobs[i, token]) for i, token in enumerate(prompt[1:])]


def test_prompt_logprobs_are_transformers_whatever_happens_on_the_way(
    core: EngineCore, tight: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    """In one pass; in chunks; and after its blocks were taken half way through the prompt."""
    prompt = prompts["code"][0][:150]
    expected = pytest.approx(transformers_logprobs(prompt), abs=2e-4)
    details = {"decoder_input_details": True}
    whole = run(core, [new_request(prompt, 3, **details)])[0]
    assert whole.prefill == expected
    chunked = run(tight, [new_request(prompt, 3, **details)])[0]
    before = tight._scheduler.preemptions
    elder = new_request(prompts["code"][1][:110], 40, ignore_eos_token=True)
    _, preempted = run(tight, [elder, new_request(prompt, 3, **details)])
    assert tight._scheduler.preemptions > before
    assert whole.prefill == chunked.prefill == preempted.prefill
    assert whole.ids == chunked.ids == preempted.ids


def test_prompt_logprobs_come_once_and_only_when_asked(
    core: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    prompt = prompts["rename"][0]
    asked, not_asked = run(
        core,
        [new_request(prompt, 4, decoder_input_details=True), new_request(prompt, 4)],
    )
    assert len(asked.prefill) == len(prompt) - 1
    assert not_asked.prefill == ()
    single = run(core, [new_request(prompt[:1], 2, decoder_input_details=True)])[0]
    assert single.prefill == ()


def computed(rows: list[Rows], request_id: int) -> int:
    """How many tokens of its prompt a request computed."""
    return max(row.count for row in rows if row.request_id == request_id)


def test_known_beginnings_are_skipped_but_never_across_loras(
    core: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    """Adapters that hold heads alone leave keys and values as they are, and share the base's."""
    prompt = prompts["doc"][0][:100]
    with planned(core) as rows:
        for adapter, medusa, expected in (
            (None, None, 100),
            (None, None, 4),
            ("medusa", None, 4),
            ("medusa-v1", None, 4),
            ("pirate", None, 100),
            ("tests", None, 100),
            ("pirate", "pirate-medusa", 4),
            ("pirate", None, 4),
            (None, None, 4),
        ):
            request = new_request(prompt, 2, adapter=adapter, medusa=medusa)
            run(core, [request])
            assert computed(rows, request.request_id) == expected, (adapter, medusa)


def test_what_was_generated_is_known_too(
    core: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    """A conversation's next turn begins with all that was said."""
    prompt = prompts["write"][0][:40]
    first = run(core, [new_request(prompt, 26, ignore_eos_token=True)])[0]
    turn = (*prompt, *first.ids, 5, 6, 7)
    with planned(core) as rows:
        request = new_request(turn, 2)
        run(core, [request])
    assert computed(rows, request.request_id) == len(turn) - 64


def test_what_was_drafted_and_refused_is_not_known(
    core: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    """Shared blocks hold accepted tokens only: a continuation through them is the plain one."""
    prompt = prompts["write"][1][:43]
    with drafting(core, lambda sequence: chain([9] * 30, "wrong")):
        first = run(core, [new_request(prompt, 12, ignore_eos_token=True)])[0]
    assert first.speculation.accepted_tokens == 0
    turn = (*prompt, *first.ids, 9, 9, 9, 9)
    again = run(core, [new_request(turn, 4, ignore_eos_token=True)])[0]
    core._scheduler.pool._block_of.clear()
    core._scheduler.pool._hash_of.clear()
    fresh = run(core, [new_request(turn, 4, ignore_eos_token=True)])[0]
    assert again.ids == fresh.ids
    assert [t.logprob for t in again.tokens] == [t.logprob for t in fresh.tokens]
