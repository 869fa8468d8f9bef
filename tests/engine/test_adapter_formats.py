"""Whatever peft writes is served as peft computes it, in one batch with all the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lorax_spec import embedded
from lorax_spec.adapters.weights import LoraWeights
from tests.engine.peft_forms import NewModel, Served, logits_by_peft, tuned

#: Of the embedded base: no biases, tied embeddings.
LLAMA_FORMS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "rslora": {"target_modules": "all-linear", "use_rslora": True, "r": 4},
    "patterns": {
        "target_modules": ["q_proj", "k_proj", "down_proj"],
        "rank_pattern": {"k_proj": 3, r"layers\.[0-2]\.mlp.down_proj": 5},
        "alpha_pattern": {"^model.layers.1.self_attn.q_proj": 40, "k_proj": 1},
    },
    "rslora patterns": {
        "target_modules": ["q_proj", "up_proj"],
        "use_rslora": True,
        "rank_pattern": {"up_proj": 2},
    },
    "some layers": {"target_modules": ["o_proj"], "layers_to_transform": [0, 3]},
    "regex": {"target_modules": r".*layers\.(1|4)\..*(gate|v)_proj"},
    "dora": {"target_modules": ["q_proj", "down_proj", "gate_proj"], "use_dora": True},
    "dora patterns": {
        "target_modules": ["v_proj", "up_proj"],
        "use_dora": True,
        "use_rslora": True,
        "rank_pattern": {"v_proj": 3},
    },
    "head and embeddings whole": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["lm_head", "embed_tokens"],
    },
    "head whole": {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]},
    "embeddings whole, tied": {
        "target_modules": ["v_proj"],
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
    "a layer whole": {"target_modules": ["v_proj"], "modules_to_save": ["layers.2.mlp.up_proj"]},
    "head and embeddings": {"target_modules": ["lm_head", "embed_tokens", "q_proj"]},
    "head only": {"target_modules": ["lm_head"], "r": 3},
    "embeddings only": {"target_modules": ["embed_tokens"], "r": 5, "use_rslora": True},
    "head dora": {"target_modules": ["lm_head", "k_proj"], "use_dora": True},
}
#: Other weights in the same forms, which go through the same calls.
LLAMA_FORMS |= {
    f"{form}, again": LLAMA_FORMS[form]
    for form in ("dora", "head and embeddings whole", "embeddings only", "head only")
}
#: Of a Qwen2, which has biases on its queries, keys and values.
QWEN_FORMS: dict[str, dict[str, Any]] = {
    "lora_only": {"target_modules": ["q_proj", "o_proj"], "bias": "lora_only"},
    "all": {"target_modules": ["q_proj", "v_proj"], "bias": "all"},
    "lora_bias": {"target_modules": ["q_proj", "k_proj"], "lora_bias": True},
    "dora bias": {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only", "use_dora": True},
    "dora": {"target_modules": ["q_proj", "o_proj"], "use_dora": True},
    "untied": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["lm_head", "embed_tokens"],
        "bias": "all",
    },
}
#: Of a GPT-2: Conv1D, norms with biases.
GPT2_FORMS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["c_attn"], "fan_in_fan_out": True},
    "all": {"target_modules": ["c_attn", "c_fc", "c_proj"], "bias": "all"},
    "dora": {"target_modules": ["c_attn", "c_fc"], "use_dora": True},
    "whole": {"target_modules": ["c_proj"], "modules_to_save": ["lm_head", "wte"]},
    "layer": {"target_modules": ["c_proj"], "modules_to_save": ["h.1.mlp.c_fc"]},
    "wte": {"target_modules": ["wte", "c_fc"]},
}


def llama() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(embedded.path() / "base", dtype=torch.float32)


def qwen() -> PreTrainedModel:
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.randn_like(parameter))
    return model


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=64, n_layer=2, n_head=4, vocab_size=512, n_positions=128, initializer_range=0.2
    )
    return GPT2LMHeadModel(config).eval()


MODELS: dict[str, tuple[NewModel, dict[str, dict[str, Any]]]] = {
    "llama": (llama, LLAMA_FORMS),
    "qwen": (qwen, QWEN_FORMS),
    "gpt2": (gpt2, GPT2_FORMS),
}


class Family:
    """A model, served, with adapters of every form and what peft computes with them."""

    def __init__(self, new_model: NewModel, forms: dict[str, dict[str, Any]], root: Path) -> None:
        self.served = Served(new_model)
        self.prompts = {
            form: torch.randint(512, (11,), generator=torch.Generator().manual_seed(i)).tolist()
            for i, form in enumerate(forms)
        }
        self.base = {form: self.by_base(new_model, form) for form in forms}
        self.expected: dict[str, torch.Tensor] = {}
        self.loras: dict[str, LoraWeights | None] = {}
        for seed, (form, options) in enumerate(forms.items()):
            model = tuned(new_model(), seed, **options)
            model.save_pretrained(root / form)
            self.expected[form] = logits_by_peft(model, self.prompts[form])
            self.loras[form] = self.served.read(root / form)

    @torch.no_grad()
    def by_base(self, new_model: NewModel, form: str) -> torch.Tensor:
        found: torch.Tensor = new_model()(torch.tensor([self.prompts[form]])).logits[0]
        return found


def apart() -> PreTrainedModel:
    """A Qwen2 without biases that computes what ``together`` does."""
    model = qwen()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    return model


def together() -> PreTrainedModel:
    """A Phi-3 with the weights of ``apart``."""
    weights, fused = apart().state_dict(), {}
    for name, weight in weights.items():
        path, _, part = name.removesuffix(".weight").rpartition(".")
        if part == "q_proj":
            parts = [weights[f"{path}.{one}_proj.weight"] for one in "qkv"]
            fused[f"{path}.qkv_proj.weight"] = torch.cat(parts)
        elif part == "gate_proj":
            fused[f"{path}.gate_up_proj.weight"] = torch.cat(
                [weight, weights[f"{path}.up_proj.weight"]]
            )
        elif part not in ("k_proj", "v_proj", "up_proj") and not name.endswith("bias"):
            fused[name] = weight
    like = apart().config
    config = Phi3Config(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
        rms_norm_eps=like.rms_norm_eps,
        rope_parameters=like.rope_parameters,
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    model = Phi3ForCausalLM(config).eval()
    model.load_state_dict(fused)
    return model


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        {"target_modules": ["q_proj", "v_proj", "up_proj"], "rank_pattern": {"v_proj": 3}},
        {"target_modules": ["k_proj", "gate_proj", "up_proj"], "use_dora": True},
        {"target_modules": ["o_proj"], "modules_to_save": ["layers.1.mlp.up_proj"]},
    ],
)
def test_modules_apart_are_served_by_fused_ones(tmp_path: Path, options: dict[str, Any]) -> None:
    assert_equal_elsewhere(tmp_path, apart, together, options)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["qkv_proj", "gate_up_proj"]},
        {"target_modules": ["qkv_proj", "down_proj"], "use_rslora": True, "use_dora": True},
        {"target_modules": ["qkv_proj"], "modules_to_save": ["layers.1.mlp.gate_up_proj"]},
    ],
)
def test_fused_modules_are_served_by_those_apart(tmp_path: Path, options: dict[str, Any]) -> None:
    assert_equal_elsewhere(tmp_path, together, apart, options)
    assert_equal_elsewhere(tmp_path, together, together, options)


def assert_equal_elsewhere(
    folder: Path, made_on: NewModel, served_by: NewModel, options: dict[str, Any]
) -> None:
    model = tuned(made_on(), **options)
    model.save_pretrained(folder)
    served = Served(served_by)
    prompt = list(range(5, 25))
    expected = logits_by_peft(model, prompt)
    with model.disable_adapter():
        base = logits_by_peft(model, prompt)
    found, bare = served.logits([(prompt, served.read(folder)), (prompt, None)])
    torch.testing.assert_close(bare, base, rtol=1e-4, atol=1e-4)
    close = 1e-4 * expected.abs().max().item()
    assert (found - expected).abs().max().item() < close
    assert (found - bare).abs().max().item() > 50 * close


@pytest.fixture(scope="module", params=MODELS)
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Family]:
    yield Family(*MODELS[request.param], tmp_path_factory.mktemp(request.param))


def test_all_forms_in_one_batch_are_as_peft_computes_them(family: Family) -> None:
    cases = [(family.prompts[form], lora) for form, lora in family.loras.items()]
    found = family.served.logits(
        [*cases, *((family.prompts[form], None) for form in list(family.loras)[:2])]
    )
    for form, logits in zip(family.loras, found, strict=False):
        expected = family.expected[form]
        close = 1e-4 * expected.abs().max().item()
        assert (logits - expected).abs().max().item() < close, form
        changed = (expected - family.base[form]).abs().max().item()
        assert changed > 50 * close, f"{form} changes too little to be seen"
    for form, logits in zip(list(family.loras)[:2], found[-2:], strict=True):
        torch.testing.assert_close(logits, family.base[form], rtol=1e-4, atol=1e-4)


def test_bits_are_the_same_alone_and_in_a_crowd(family: Family) -> None:
    cases = [(family.prompts[form], lora) for form, lora in family.loras.items()]
    crowd = family.served.logits(cases + cases[::-1])
    for case, form, together in zip(cases, family.loras, crowd, strict=False):
        (alone,) = family.served.logits([case])
        assert torch.equal(alone, together), form


@pytest.mark.parametrize("length", [1, 2, 5, 7, 8, 9, 30])
@pytest.mark.parametrize("others", [0, 1, 2])
def test_rows_that_are_kept_are_those_asked_for(length: int, others: int) -> None:
    """Short prompts, whose last row alone is kept, in batches that are filled up."""
    served = Served(qwen)
    prompts = [list(range(3 + i, 3 + i + length)) for i in range(1 + others)]
    batch = served.batch([(prompt, None) for prompt in prompts], all_rows=False)
    _, logits = served.model.forward(batch)
    for prompt, first in zip(prompts, batch.first_kept, strict=True):
        with torch.no_grad():
            expected = qwen()(torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(logits[first], expected, rtol=1e-4, atol=1e-4)


def test_last_rows_alone_are_the_same(family: Family) -> None:
    """One by one, and two in a batch: rows that are kept are counted otherwise than all rows."""
    forms = list(family.loras)
    for form, other in zip(forms, forms[1:] + forms[:1], strict=True):
        pair = [(family.prompts[one], family.loras[one]) for one in (form, other)]
        for cases in (pair[:1], pair):
            batch = family.served.batch(cases, all_rows=False)
            _, logits = family.served.model.forward(batch)
            for at, one in zip(batch.first_kept, (form, other), strict=False):
                expected = family.expected[one][-1]
                close = 1e-4 * expected.abs().max().item()
                assert (logits[at] - expected).abs().max().item() < close, (form, one)
