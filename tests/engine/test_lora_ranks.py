"""LoRAs of any rank give the same bits in any company."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lorax_spec import embedded
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import TokenRequest
from lorax_spec.types import Method
from tests.conformance.running import Outcome, run
from tests.engine.conftest import NewRequest

Prompts = dict[str, list[tuple[int, ...]]]

RANKS = (1, 2, 3, 5, 8, 24)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of random LoRAs, named after their ranks."""
    folder, base = tmp_path_factory.mktemp("ranks"), embedded.path() / "base"
    for rank in RANKS:
        torch.manual_seed(rank)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        config = LoraConfig(
            r=rank,
            lora_alpha=rank,
            target_modules=["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"],
            init_lora_weights=False,
        )
        get_peft_model(model, config).save_pretrained(folder / str(rank))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_lora_of_any_rank_is_the_same_alone_and_in_a_crowd(
    ranks: Path, prompts: Prompts, new_request: NewRequest, dtype: str
) -> None:
    core = EngineCore.load(
        EngineConfig(
            str(embedded.path() / "base"),
            dtype=dtype,
            deterministic=True,
            max_total_tokens=256,
            max_batch_prefill_tokens=90,
            adapter_roots={"": ranks},
        )
    )

    def ask(rank: int, which: int, method: Method) -> TokenRequest:
        return new_request(
            prompts["rename"][which][:60],
            10,
            method,
            4 if method is Method.PROMPT_LOOKUP else None,
            str(rank),
            decoder_input_details=which == 0,
        )

    def said(outcome: Outcome) -> object:
        return [(t.id, t.logprob) for t in outcome.tokens], outcome.prefill

    cases = [(rank, which) for which in range(3) for rank in RANKS]
    alone = [said(run(core, [ask(*case, Method.NONE)])[0]) for case in cases]
    crowd = run(core, [ask(*case, Method.PROMPT_LOOKUP) for case in cases])
    differing = {
        rank
        for (rank, _), expected, outcome in zip(cases, alone, crowd, strict=True)
        if said(outcome) != expected
    }
    core.close()
    assert differing == set()
