"""The same engine on a CUDA device: greedy text equals transformers' on the CPU."""

from __future__ import annotations

import pytest
import torch

from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import TokenRequest
from lorax_spec.types import AdapterRef, Method, Parameters, Speculation
from tests.conformance.families import embedded_family
from tests.conformance.reference import assert_agrees, load_reference
from tests.conformance.running import run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

NEW_TOKENS = 32
WAYS = {
    "off": (None, None, Speculation(Method.NONE)),
    "lookup": (None, None, Speculation(Method.PROMPT_LOOKUP, 4)),
    "tree": ("medusa", None, Speculation(num_tokens=12)),
    "joint": ("tests-medusa", "tests", Speculation(num_tokens=4)),
    "pirate": ("pirate", "pirate", Speculation(Method.PROMPT_LOOKUP, 4)),
}


def test_float32_text_in_one_mixed_batch() -> None:
    family = embedded_family()
    core = EngineCore.load(
        EngineConfig(
            str(family.base),
            dtype="float32",
            device="cuda",
            max_total_tokens=512,
            max_batch_prefill_tokens=64,
            adapter_roots={"": family.adapters},
        )
    )
    cases = [(prompt, way) for prompt in family.prompts[::6] for way in WAYS.values()]
    outcomes = run(
        core,
        [
            TokenRequest(
                index,
                prompt,
                Parameters(max_new_tokens=NEW_TOKENS),
                speculation,
                AdapterRef(adapter) if adapter else None,
            )
            for index, (prompt, (adapter, _, speculation)) in enumerate(cases)
        ],
    )
    references = {
        lora: load_reference(family.base, family.adapters / lora if lora else None, family.eos)
        for lora in (None, "tests", "pirate")
    }
    ties = sum(
        assert_agrees(references[lora], prompt, NEW_TOKENS, outcome.ids)
        for (prompt, (_, lora, _)), outcome in zip(cases, outcomes, strict=True)
    )
    assert ties <= 1
    assert sum(outcome.speculation.accepted_tokens for outcome in outcomes) > 0
