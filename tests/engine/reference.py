"""The embedded model as transformers runs it."""

from __future__ import annotations

import functools

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorax_spec import embedded


@functools.cache
def reference() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(embedded.path() / "base", dtype=torch.float32)
