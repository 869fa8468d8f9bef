"""A model's shape by its configuration alone, without its weights."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lorax_spec.adapters.shape import ModelShape, shape_of
from lorax_spec.engine.fused import plain_linears


def outline(model_id: str, revision: str | None = None) -> tuple[ModelShape, torch.dtype]:
    """(shape, dtype of its weights) of a folder or of a model on the hub.

    Raises OSError where there is no such model.
    """
    config = AutoConfig.from_pretrained(model_id, revision=revision)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    turned = plain_linears(model)
    return shape_of(model, model_id, turned=turned), model.dtype
