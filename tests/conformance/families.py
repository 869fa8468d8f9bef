"""Models and adapters that the conformance tests run: the embedded bundle, and random small ones.

The random models are of other architectures (Qwen3 with its query and key norms, Mistral with a
sliding window), with LoRAs written by peft and Medusa heads written here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, MistralConfig, PreTrainedConfig, Qwen3Config

from lorax_spec import embedded
from lorax_spec.text.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Family:
    """A base model, its adapters' folder and prompts; ids are below ``adapters``.

    ``joint`` holds a LoRA and heads; ``heads`` and ``paired_heads`` hold heads alone.
    """

    name: str
    base: Path
    adapters: Path
    loras: tuple[str, ...]
    heads: tuple[str, ...]
    joint: str
    paired: tuple[str, str]
    eos: tuple[int, ...]
    prompts: tuple[tuple[int, ...], ...]


def embedded_family() -> Family:
    """The shipped model; prompts are held out and longer than they are alike."""
    base = embedded.path() / "base"
    tokenizer = TextTokenizer.load(base)
    kinds = {"rename": 14, "edit": 8, "doc": 8, "write": 8, "code": 8, "tests": 8}
    workloads = embedded.workloads()
    prompts = tuple(
        tuple(tokenizer.encode(item["prompt"]))
        for kind, count in kinds.items()
        for item in workloads[kind][:count]
    )
    return Family(
        "embedded",
        base,
        embedded.path() / "adapters",
        loras=("pirate", "tests"),
        heads=("medusa", "medusa-v1"),
        joint="tests-medusa",
        paired=("pirate", "pirate-medusa"),
        eos=tuple(sorted(tokenizer.eos_token_ids)),
        prompts=prompts,
    )


def random_family(config: PreTrainedConfig, folder: Path) -> Family:
    """A random model of ``config`` with two LoRAs, two sets of heads, and a joint adapter."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.12)
    base, adapters = folder / "base", folder / "adapters"
    model.save_pretrained(base)
    for name, rank, targets in (
        ("one", 4, ["q_proj", "v_proj", "down_proj"]),
        ("two", 9, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"]),
        ("joint", 2, ["o_proj", "up_proj"]),
    ):
        lora = LoraConfig(r=rank, lora_alpha=8, target_modules=targets, init_lora_weights=False)
        fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        get_peft_model(fresh, lora).save_pretrained(adapters / name)
    for name, heads, own_lm_head in (
        ("heads", 2, False),
        ("heads-v1", 3, True),
        ("joint", 3, False),
    ):
        write_heads(adapters / name, config.hidden_size, config.vocab_size, heads, own_lm_head)
    generator = torch.Generator().manual_seed(3)
    prompts = tuple(
        tuple(torch.randint(3, config.vocab_size, (length,), generator=generator).tolist())
        for length in (3, 17, 40, 90, 16, 33, 64, 5)
    )
    return Family(
        config.model_type,
        base,
        adapters,
        loras=("one", "two"),
        heads=("heads", "heads-v1"),
        joint="joint",
        paired=("one", "heads-v1"),
        eos=(2,),
        prompts=prompts,
    )


def write_heads(folder: Path, hidden: int, vocabulary: int, heads: int, own_lm_head: bool) -> None:
    """A Medusa folder of random weights, v1 with lm heads of its own, else v2."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(heads)
    tensors = {}
    for head in range(heads):
        weight = torch.randn(hidden, hidden, generator=generator) * hidden**-0.5
        tensors[f"{head}.0.linear.weight"] = weight
        tensors[f"{head}.0.linear.bias"] = torch.randn(hidden, generator=generator) * 0.1
        if own_lm_head:
            own = torch.randn(vocabulary, hidden, generator=generator) * hidden**-0.5
            tensors[f"{head}.1.weight"] = own
    save_file(tensors, folder / "medusa_lm_head.safetensors")
    config = {
        "medusa_num_heads": heads,
        "medusa_num_layers": 1,
        "base_model_name_or_path": "",
        "version": "1" if own_lm_head else "2",
    }
    (folder / "config.json").write_text(json.dumps(config))


def qwen3() -> PreTrainedConfig:
    return Qwen3Config(
        vocab_size=192,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        eos_token_id=2,
        bos_token_id=None,
        pad_token_id=0,
    )


def mistral() -> PreTrainedConfig:
    return MistralConfig(
        vocab_size=192,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=24,
        max_position_embeddings=512,
        eos_token_id=2,
        bos_token_id=None,
        pad_token_id=0,
    )
