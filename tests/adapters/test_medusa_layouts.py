"""The same Medusa heads in every layout there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lorax_spec.adapters.folder import read_folder
from lorax_spec.adapters.inspect import inspect
from lorax_spec.errors import AdapterMismatch
from tests.adapters.writers import (
    SHAPE,
    as_vllm,
    lora_tensors,
    medusa_config,
    medusa_tensors,
    write_lora,
    write_medusa,
)

FORMS = [(1, False), (1, True), (2, False), (2, True)]


@pytest.mark.parametrize(("layers", "own"), FORMS)
def test_all_layouts_are_the_same_heads(tmp_path: Path, layers: int, own: bool) -> None:
    config, tensors = medusa_config(3, layers), medusa_tensors(3, layers, own)
    plain = read_folder(write_medusa(tmp_path / "plain", config, tensors), SHAPE, torch.float32)
    prefixed = {f"medusa_head.{name}": tensor for name, tensor in tensors.items()}
    vllm = as_vllm(config, tensors)
    folders = [
        write_medusa(tmp_path / "prefixed", config, prefixed),
        write_medusa(tmp_path / "vllm", *vllm),
        write_medusa(
            tmp_path / "vllm prefixed",
            vllm[0],
            {f"medusa_heads.{name}": tensor for name, tensor in vllm[1].items()},
        ),
    ]
    for name, saved in {"pickle": tensors, "pickle prefixed": prefixed}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        torch.save(saved, tmp_path / name / "medusa_lm_head.pt")
        folders.append(tmp_path / name)
    for folder in folders:
        assert read_folder(folder, SHAPE, torch.float32).fingerprint == plain.fingerprint, folder
        seen = inspect(folder, SHAPE)
        assert seen.faults == () and seen.kind == "medusa"
        assert (seen.medusa_heads, seen.medusa_layers) == (3, layers)
        assert seen.medusa_version == (1 if own else 2)


def test_vllm_heads_without_biases(tmp_path: Path) -> None:
    config, tensors = as_vllm(medusa_config(2), medusa_tensors(2))
    config["medusa_fc_bias"] = False
    bare = {name: tensor for name, tensor in tensors.items() if not name.endswith("bias")}
    heads = read_folder(write_medusa(tmp_path, config, bare), SHAPE, torch.float32).medusa
    assert heads is not None and not heads.bias.any()
    assert torch.equal(heads.weight[1, 0], tensors["blocks.1.layers.0.weight"])


def test_an_lm_head_that_all_share(tmp_path: Path) -> None:
    config, tensors = as_vllm(medusa_config(3), medusa_tensors(3))
    tensors["lm_head.weight"] = torch.randn(128, 64)
    weights = read_folder(write_medusa(tmp_path, config, tensors), SHAPE, torch.float32)
    assert weights.medusa is not None and weights.medusa.lm_head is not None
    assert weights.medusa.lm_head.shape == (3, 128, 64)
    assert all(torch.equal(one, tensors["lm_head.weight"]) for one in weights.medusa.lm_head)
    assert weights.nbytes < 4 * (3 * 64 * 65 + 2 * 128 * 64)


@pytest.mark.parametrize("pickled", [False, True])
def test_joint_folders(tmp_path: Path, pickled: bool) -> None:
    """A LoRA and heads of any layout; in one file they may be, too."""
    config, tensors = medusa_config(2), medusa_tensors(2)
    write_lora(tmp_path)
    if pickled:
        (tmp_path / "config.json").write_text(json.dumps(config))
        torch.save(tensors | lora_tensors(), tmp_path / "medusa_lm_head.pt")
        (tmp_path / "adapter_model.safetensors").unlink()
    else:
        write_medusa(tmp_path, *as_vllm(config, tensors))
    weights = read_folder(tmp_path, SHAPE, torch.float32)
    assert weights.kind == "lora+medusa" and weights.lora is not None
    assert weights.medusa is not None and weights.medusa.num_heads == 2


@pytest.mark.parametrize(
    ("change", "extra", "why"),
    [
        ({"truncated_vocab_size": 100}, {}, "truncated_vocab_size=100"),
        ({"logit_scale": 0.5}, {}, "logit_scale=0.5"),
        ({}, {"token_map": torch.arange(3).float()}, "token_map is not supported"),
        ({"num_heads": 3}, {}, "says 3 heads, the tensors are of heads"),
        ({"num_heads": "2"}, {}, "medusa_num_heads is '2'"),
        ({"num_hidden_layers": 2}, {}, "0.1.linear.weight is missing"),
        ({}, {"0.0.linear.bias": torch.zeros(64)}, "0.0.linear.bias is there twice|is there twice"),
        ({}, {"lm_heads.0.weight": torch.zeros(100, 64)}, r"\[100, 64\], this model needs"),
        ({}, {"model.embed_tokens.weight": torch.zeros(2)}, "embed_tokens.weight is not supported"),
    ],
)
def test_what_is_not_served(
    tmp_path: Path, change: dict[str, Any], extra: dict[str, torch.Tensor], why: str
) -> None:
    config, tensors = as_vllm(medusa_config(2), medusa_tensors(2, own_lm_head=True))
    folder = write_medusa(tmp_path, config | change, tensors | extra)
    with pytest.raises(AdapterMismatch, match=why):
        read_folder(folder, SHAPE, torch.float32)
    assert inspect(folder, SHAPE).faults
