"""Texts on adapters of every form: peft's own, and the same bits in any company."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lorax_spec import embedded
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import TokenRequest
from lorax_spec.types import Method
from tests.conformance.running import Outcome, run
from tests.engine.conftest import NewRequest
from tests.engine.peft_forms import tuned
from tests.engine.test_adapter_formats import LLAMA_FORMS, llama

Prompts = dict[str, list[tuple[int, ...]]]

FORMS = (
    "plain",
    "patterns",
    "dora",
    "head whole",
    "head and embeddings whole",
    "head and embeddings",
    "embeddings only",
)
NEW_TOKENS = 16


@pytest.fixture(scope="module")
def texts(
    tmp_path_factory: pytest.TempPathFactory, prompts: Prompts
) -> tuple[Path, dict[str, list[int]]]:
    """A folder of adapters by form, and what peft generates with them."""
    folder, written = tmp_path_factory.mktemp("forms"), {}
    for seed, form in enumerate(FORMS):
        model = tuned(llama(), seed, **LLAMA_FORMS[form])
        model.save_pretrained(folder / form)
        prompt = torch.tensor([prompts["rename"][seed % 2][:40]])
        ids = model.generate(
            input_ids=prompt, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None
        )
        written[form] = ids[0, prompt.shape[1] :].tolist()
    return folder, written


@pytest.fixture(scope="module")
def core(texts: tuple[Path, dict[str, list[int]]]) -> Iterator[EngineCore]:
    core = EngineCore.load(
        EngineConfig(
            str(embedded.path() / "base"),
            dtype="float32",
            deterministic=True,
            max_total_tokens=256,
            max_batch_prefill_tokens=64,
            adapter_roots={"": texts[0], "demo": embedded.path() / "adapters"},
        )
    )
    yield core
    core.check_integrity()
    core.close()


def said(outcome: Outcome) -> object:
    return [(token.id, token.logprob) for token in outcome.tokens], outcome.prefill


@pytest.mark.slow
def test_texts_are_pefts_and_the_same_bits_in_any_company(
    core: EngineCore,
    texts: tuple[Path, dict[str, list[int]]],
    prompts: Prompts,
    new_request: NewRequest,
) -> None:
    def ask(form: str, method: Method, medusa: str | None = None) -> TokenRequest:
        prompt = prompts["rename"][FORMS.index(form) % 2][:40]
        return new_request(
            prompt,
            NEW_TOKENS,
            method,
            None if method is Method.NONE else 4,
            form,
            medusa,
            ignore_eos_token=True,
            decoder_input_details=True,
        )

    alone = {form: run(core, [ask(form, Method.NONE)])[0] for form in FORMS}
    for form, outcome in alone.items():
        assert outcome.error is None and outcome.ids == texts[1][form], form
    assert len({tuple(outcome.ids) for outcome in alone.values()}) == len(FORMS)
    crowd = [ask(form, Method.PROMPT_LOOKUP) for form in FORMS]
    crowd += [ask(form, Method.MEDUSA, "demo/medusa") for form in FORMS]
    for form, outcome in zip(FORMS * 2, run(core, crowd), strict=True):
        assert outcome.error is None and said(outcome) == said(alone[form]), form
