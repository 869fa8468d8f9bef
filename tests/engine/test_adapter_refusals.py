"""What peft writes and is not served is refused with its reason."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from peft import get_peft_model

from lorax_spec.adapters.folder import read_folder
from lorax_spec.adapters.inspect import inspect
from lorax_spec.errors import AdapterMismatch
from tests.engine.test_adapter_corruption import llama, served

Q = ["q_proj"]
LORA = {"task_type": "CAUSAL_LM", "r": 4}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (peft.IA3Config(target_modules=Q, feedforward_modules=[]), "peft_type is 'IA3'"),
        (peft.VeraConfig(target_modules=Q, r=4), "peft_type is 'VERA'"),
        (peft.AdaLoraConfig(target_modules=Q, total_step=9), "peft_type is 'ADALORA'"),
        (peft.LoHaConfig(target_modules=Q), "peft_type is 'LOHA'"),
        (
            peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
            "peft_type is 'PROMPT_TUNING'",
        ),
        (
            peft.LoraConfig(target_modules=Q, trainable_token_indices=[1, 2], **LORA),
            "trainable_token_indices=.* is not supported",
        ),
        (
            peft.LoraConfig(target_modules=Q, init_lora_weights="pissa", **LORA),
            "'pissa' changes the base weights",
        ),
        (
            peft.LoraConfig(target_modules=Q, init_lora_weights="olora", **LORA),
            "'olora' changes the base weights",
        ),
        (
            peft.LoraConfig(target_modules=Q, layer_replication=[(0, 1), (0, 1)], **LORA),
            "layer_replication=.* is not supported",
        ),
        (
            peft.LoraConfig(target_modules=Q, modules_to_save=["norm"], **LORA),
            "modules_to_save are served for the model's embeddings",
        ),
        (
            peft.LoraConfig(target_modules=["embed_tokens"], use_dora=True, **LORA),
            "embeddings take a plain LoRA",
        ),
        (
            peft.LoraConfig(target_modules=Q, alora_invocation_tokens=[1], **LORA),
            "alora_invocation_tokens=.* is not supported",
        ),
    ],
)
def test_as_peft_writes_it(tmp_path: Path, config: peft.PeftConfig, why: str) -> None:
    get_peft_model(llama(), config).save_pretrained(tmp_path)
    with pytest.raises(AdapterMismatch, match=why):
        read_folder(tmp_path, served().shape, torch.float32)
    assert inspect(tmp_path, served().shape).faults


def test_embeddings_of_another_size(tmp_path: Path) -> None:
    """As after adding tokens, which PEFT saves with the LoRA."""
    model = llama()
    model.resize_token_embeddings(70)
    config = peft.LoraConfig(target_modules=Q, modules_to_save=["lm_head", "embed_tokens"], **LORA)
    get_peft_model(model, config).save_pretrained(tmp_path)
    with pytest.raises(AdapterMismatch, match=r"lm_head.weight is \[70, 32\], .* needs \[64, 32\]"):
        read_folder(tmp_path, served().shape, torch.float32)


def test_embeddings_that_were_trained_beside_a_lora(tmp_path: Path) -> None:
    """PEFT saves the embeddings under a LoRA of theirs; they must be the base model's."""
    model = llama()
    with torch.no_grad():
        model.get_input_embeddings().weight[3] += 1
    config = peft.LoraConfig(target_modules=["embed_tokens"], **LORA)
    get_peft_model(model, config).save_pretrained(tmp_path)
    with pytest.raises(AdapterMismatch, match=r"embed_tokens.base_layer.weight is another than"):
        read_folder(tmp_path, served().shape, torch.float32)
