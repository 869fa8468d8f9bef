"""The frozen model that heads are trained on, with its tokenizer and, where asked, a LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorax_spec import embedded
from lorax_spec.errors import InvalidArgument

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Base:
    """``model`` is a transformers causal LM without gradients; ``base_id`` names it in configs."""

    model: Any
    tokenizer: Any
    base_id: str


def load_base(
    model_id: str | None, lora: Path | None, *, dtype: str = "auto", device: str = "auto"
) -> Base:
    """Load a model (None: the embedded one) and merge a LoRA into it, in float32, by peft."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = model_id or str(embedded.path() / "base")
    target = _device(device)
    kept = _dtype(dtype, target)
    loaded = torch.float32 if lora else kept
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=loaded)
    if lora is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(lora)).merge_and_unload()
    for parameter in model.parameters():
        # Not model.to(dtype), which would round the rotary frequencies as well.
        parameter.data = parameter.data.to(kept)
    model = model.to(target).eval().requires_grad_(False)
    # Documents may be of any length here: training cuts them into windows.
    tokenizer = AutoTokenizer.from_pretrained(source, model_max_length=1_000_000_000)
    return Base(model, tokenizer, model_id or embedded.BASE_ID)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto``: bfloat16 where the processor multiplies it natively, else float32."""
    if name == "auto":
        native = torch.cpu.get_capabilities()
        fast = device.type == "cuda" or native.get("avx512_bf16") or native.get("amx_bf16")
        return torch.bfloat16 if fast else torch.float32
    if name not in _DTYPES:
        raise InvalidArgument(f"dtype is auto or one of {', '.join(_DTYPES)}", field="dtype")
    return _DTYPES[name]
