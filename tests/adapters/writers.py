"""Adapter folders for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lorax_spec.adapters.shape import ModelShape

LINEARS = {
    f"model.layers.{layer}.{name}": size
    for layer in range(2)
    for name, size in {
        "self_attn.q_proj": (64, 64),
        "self_attn.k_proj": (32, 64),
        "self_attn.v_proj": (32, 64),
        "self_attn.o_proj": (64, 64),
        "mlp.gate_proj": (96, 64),
        "mlp.up_proj": (96, 64),
        "mlp.down_proj": (64, 96),
    }.items()
}
SHAPE = ModelShape(LINEARS, hidden_size=64, vocab_size=128, model_id="tests/tiny-llama")


def lora_config(**changes: Any) -> dict[str, Any]:
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "tests/tiny-llama",
        "r": 4,
        "lora_alpha": 8,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
    }
    return config | changes


def lora_tensors(rank: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(seed)
    tensors = {}
    for path, (out_features, in_features) in LINEARS.items():
        if path.endswith(("q_proj", "v_proj")):
            prefix = f"base_model.model.{path}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, in_features, generator=noise)
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(out_features, rank, generator=noise)
    return tensors


def medusa_config(heads: int = 3, layers: int = 1, **changes: Any) -> dict[str, Any]:
    config = {
        "medusa_num_heads": heads,
        "medusa_num_layers": layers,
        "base_model_name_or_path": "tests/tiny-llama",
    }
    return config | changes


def medusa_tensors(
    heads: int = 3, layers: int = 1, own_lm_head: bool = False
) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(heads)
    tensors = {}
    for head in range(heads):
        for layer in range(layers):
            name = f"{head}.{layer}.linear"
            tensors[f"{name}.weight"] = torch.randn(64, 64, generator=noise)
            tensors[f"{name}.bias"] = torch.randn(64, generator=noise)
        if own_lm_head:
            tensors[f"{head}.{layers}.weight"] = torch.randn(128, 64, generator=noise)
    return tensors


def as_vllm(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The same heads as vLLM names them."""
    layers = config["medusa_num_layers"]
    named = {
        "model_type": "medusa",
        "architectures": ["MedusaModel"],
        "num_heads": config["medusa_num_heads"],
        "num_hidden_layers": layers,
        "vocab_size": 128,
        "truncated_vocab_size": 128,
        "medusa_fc_bias": True,
    }
    renamed = {}
    for name, tensor in tensors.items():
        head, layer, *rest = name.split(".")
        if rest == ["weight"]:
            renamed[f"lm_heads.{head}.weight"] = tensor
        else:
            renamed[f"blocks.{head}.layers.{layer}.{rest[1]}"] = tensor
    return named, renamed


def hydra_config(heads: int = 2, inner: int = 16, **changes: Any) -> dict[str, Any]:
    config = {
        "hydra_num_heads": heads,
        "hydra_inner_size": inner,
        "base_model_name_or_path": "tests/tiny-llama",
        "version": "1",
    }
    return config | changes


def hydra_tensors(
    heads: int = 2, inner: int = 16, hidden: int = 64, seed: int = 0
) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(seed)
    tensors = {}
    for head in range(heads):
        inputs = (head + 2) * hidden
        tensors[f"hydra.{head}.in.weight"] = torch.randn(inner, inputs, generator=noise)
        tensors[f"hydra.{head}.in.bias"] = torch.randn(inner, generator=noise)
        tensors[f"hydra.{head}.out.weight"] = torch.randn(hidden, inner, generator=noise)
        tensors[f"hydra.{head}.out.bias"] = torch.randn(hidden, generator=noise)
    return tensors


def calibration(heads: int = 2, **changes: Any) -> dict[str, Any]:
    content = {
        "accepted": {
            "greedy": [[0.5, 0.25, 0.0]] * heads,
            "sampled": [[0.375] for _ in range(heads)],
        },
        "sharpness": [0.75] * heads,
        "noise": [1] * heads,
    }
    return content | changes


def write_lora(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    tensors: dict[str, torch.Tensor] | None = None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config or lora_config()))
    save_file(tensors or lora_tensors(), folder / "adapter_model.safetensors")
    return folder


def write_medusa(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    tensors: dict[str, torch.Tensor] | None = None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or medusa_config()))
    save_file(tensors or medusa_tensors(), folder / "medusa_lm_head.safetensors")
    return folder


def write_hydra(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    tensors: dict[str, torch.Tensor] | None = None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or hydra_config()))
    save_file(tensors or hydra_tensors(), folder / "hydra_heads.safetensors")
    return folder
