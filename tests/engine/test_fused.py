"""Norms are replaced where, and only where, the replacement computes the same."""

from __future__ import annotations

import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from lorax_spec.engine.fused import FusedRMSNorm, fuse_norms


class Squared(LlamaRMSNorm):  # type: ignore[misc]
    """Looks like a norm and is none."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = super().forward(hidden_states)
        return normed.square()


class Centred(LlamaRMSNorm):  # type: ignore[misc]
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = super().forward(hidden_states - hidden_states.mean(-1, True))
        return normed


def with_weights(norm: nn.Module) -> nn.Module:
    nn.init.normal_(norm.weight)
    return norm


def test_norms_are_tried_not_recognised() -> None:
    norms = [with_weights(kind(64)) for kind in (LlamaRMSNorm, Squared, Centred, GemmaRMSNorm)]
    model = nn.Sequential(*norms, with_weights(LlamaRMSNorm(64)).bfloat16())
    assert fuse_norms(model) == 1
    assert [type(module) for module in model] == [
        FusedRMSNorm,
        Squared,
        Centred,
        GemmaRMSNorm,
        LlamaRMSNorm,
    ]


def test_a_fused_norm_is_the_same_for_rows_of_any_size() -> None:
    """Tiny rows show whether the epsilon is the same."""
    norm = with_weights(LlamaRMSNorm(64, eps=1e-5))
    model = nn.Sequential(norm)
    assert fuse_norms(model) == 1
    x = torch.randn(8, 64) * torch.logspace(-6, 4, 8)[:, None]
    assert torch.allclose(model(x), norm(x), rtol=1e-5, atol=1e-7)
