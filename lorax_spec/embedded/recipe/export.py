"""From the training checkpoint to files that are shipped: the base, and the joint heads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaForCausalLM

from lorax_spec.embedded import BASE_ID
from lorax_spec.embedded.recipe.pretrain import HEADS, JointModel, base_config
from lorax_spec.train.heads import MedusaHeads, save_heads


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write into that becomes ``target`` only when all of it is there."""
    draft = target.with_name(f".{target.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    yield draft
    for file in draft.rglob("*.*"):
        file.chmod(0o644)  # safetensors writes 0600, which a system-wide install could not read
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)


def load_joint(checkpoint: Path) -> tuple[JointModel, int]:
    """The jointly trained model in float32, and how many tokens it has seen."""
    state = torch.load(checkpoint, weights_only=True)
    model = JointModel(base_config(), HEADS)
    missing, unexpected = model.load_state_dict(state["optimizer"]["masters"], strict=False)
    if unexpected or set(missing) - {"base.lm_head.weight"}:
        raise ValueError(f"{checkpoint} is no joint checkpoint: {missing} {unexpected}")
    return model.eval(), int(state["tokens"])


def export_base(base: LlamaForCausalLM, tokenizer_folder: Path, target: Path) -> None:
    """Write the base in bfloat16, with the tokenizer's files beside it."""
    with new_folder(target) as folder:
        base.to(torch.bfloat16).save_pretrained(folder)
        GenerationConfig(eos_token_id=[2, 0], pad_token_id=3).save_pretrained(folder)
        for file in tokenizer_folder.glob("tokenizer*.json"):
            shutil.copy(file, folder)


def export_heads(model: JointModel, target: Path) -> None:
    """Write the heads trained along with the base as a v2 adapter."""
    heads = MedusaHeads(base_config().hidden_size, len(model.heads))
    heads.blocks.load_state_dict(model.heads.state_dict())
    with new_folder(target) as folder:
        save_heads(heads, folder, BASE_ID)
