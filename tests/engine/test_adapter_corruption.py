"""Adapters that were tampered with at random: refused for a reason, or served as peft serves
them; never anything in between."""

from __future__ import annotations

import functools
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lorax_spec.adapters.folder import read_folder
from lorax_spec.errors import AdapterMismatch
from tests.engine.peft_forms import Served, logits_by_peft, tuned

PROMPT = list(range(9))
FORMS: list[dict[str, Any]] = [
    {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"q_proj": 3}},
    {"target_modules": ["v_proj", "gate_proj"], "use_dora": True, "use_rslora": True},
    {"target_modules": ["k_proj"], "bias": "lora_only", "alpha_pattern": {"k_proj": 3}},
    {"target_modules": ["o_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    {"target_modules": ["lm_head", "embed_tokens", "up_proj"]},
    {"target_modules": ["q_proj", "v_proj"], "lora_bias": True},
]
#: What peft makes modules by; here the tensors that are there say which there are.
CHOOSING = ("target_modules", "layers_to_transform", "layers_pattern", "exclude_modules")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=3,
)


def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        tie_word_embeddings=False,
        attention_bias=True,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


@functools.cache
def served() -> Served:
    return Served(llama)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("forms")
    for number, options in enumerate(FORMS):
        tuned(llama(), number, **options).save_pretrained(root / str(number))
    return [root / str(number) for number in range(len(FORMS))]


def change_config(data: st.DataObject, folder: Path) -> str:
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    key = data.draw(st.sampled_from(sorted(config)) | st.text(max_size=6), "key")
    if data.draw(st.booleans(), "removed"):
        config.pop(key, None)
    else:
        config[key] = data.draw(JSON, "value")
    path.write_text(json.dumps(config))
    return key


def change_tensors(data: st.DataObject, folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = data.draw(st.sampled_from(sorted(tensors)), "tensor")
    tensor = tensors.pop(name)
    other = data.draw(st.sampled_from(sorted(tensors)) | st.text(max_size=5), "other name")
    kind = data.draw(st.sampled_from(["gone", "renamed", "longer", "flat", "turned", "nan"]))
    if kind == "renamed":
        tensors[data.draw(st.sampled_from([f"base_model.model.{other}", other, name + ".x"]))] = (
            tensor
        )
    elif kind == "longer":
        tensors[name] = torch.cat([tensor, tensor])
    elif kind == "flat":
        tensors[name] = tensor.flatten()
    elif kind == "turned":
        tensors[name] = tensor.T.contiguous() if tensor.dim() == 2 else tensor[None]
    elif kind == "nan":
        tensors[name] = tensor.index_fill(0, torch.tensor([0]), float("nan"))
    save_file(tensors, path)


def change_bytes(data: st.DataObject, folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    at = data.draw(st.integers(0, header - 1), "place")
    content[at] = data.draw(st.integers(0, 255), "byte")
    if data.draw(st.booleans(), "cut short"):
        del content[data.draw(st.integers(0, len(content) - 1), "end") :]
    path.write_bytes(content)


def by_peft(folder: Path) -> torch.Tensor | None:
    """None where peft has a complaint of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return logits_by_peft(PeftModel.from_pretrained(llama(), folder).eval(), PROMPT)
        except Exception:
            return None


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_was_tampered_with_is_refused_or_right(
    folders: list[Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "tampered"
    shutil.rmtree(folder, ignore_errors=True)
    untouched = data.draw(st.sampled_from(folders), "form")
    shutil.copytree(untouched, folder)
    change = data.draw(st.sampled_from([change_config, change_tensors, change_bytes]))
    changed = change(data, folder)
    try:
        weights = read_folder(folder, served().shape, torch.float32)
    except AdapterMismatch as error:
        assert len(error.message) > 10
        return
    (found,) = served().logits([(PROMPT, weights.lora)])
    expected = by_peft(untouched if changed in CHOOSING else folder)
    assert expected is None or torch.allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_untouched_ones_are_right(folders: list[Path]) -> None:
    for folder in folders:
        (found,) = served().logits([(PROMPT, served().read(folder))])
        expected = by_peft(folder)
        assert expected is not None and torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
