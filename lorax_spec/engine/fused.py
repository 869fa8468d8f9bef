"""Faster ways through transformers' modules, put in from outside where they compute the same."""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


class FusedRMSNorm(nn.Module):
    """Root mean square norm: ``x / sqrt(mean(x^2) + eps) * weight`` in float32 (Zhang and Sennrich
    2019, arXiv 1910.07467), in the fewest calls torch has for it on a CPU."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight = weight
        self.variance_epsilon = epsilon
        # Plain attributes: a module's parameters are looked up slowly.
        self._weight = weight.detach()
        self._epsilon = weight.new_full((), epsilon).detach()
        self._share = 1 / weight.shape[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x, 2, -1, True)
        inverse = torch.addcmul(self._epsilon, norm, norm, value=self._share).rsqrt_()
        return inverse.mul(x).mul_(self._weight)


def plain_linears(model: nn.Module) -> frozenset[str]:
    """Replace GPT-2's Conv1D, a linear layer whose weight lies the other way round, by what every
    other model has: packing and the self-check of determinism then need not know it.

    Gives the names of what was replaced.
    """
    replaced = []
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            in_features, out_features = module.weight.shape
            linear = nn.Linear(in_features, out_features, device="meta")
            linear.weight = nn.Parameter(module.weight.detach().T.contiguous(), requires_grad=False)
            linear.bias = module.bias
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, linear)
            replaced.append(name)
    return frozenset(replaced)


@torch.inference_mode()
def fuse_norms(model: nn.Module) -> int:
    """Replace every norm that FusedRMSNorm equals on random rows; says how many.

    Norms of the same name differ between architectures (Gemma adds one to its weights), so each is
    tried, not recognised.  In 16 bit the roundings in between differ, and nothing is replaced.
    """
    replaced = 0
    for name, module in list(model.named_modules()):
        weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
        if not isinstance(weight, nn.Parameter) or not isinstance(epsilon, float):
            continue
        if weight.dtype != torch.float32:
            continue
        fused = FusedRMSNorm(weight, epsilon)
        x = torch.randn(4, weight.shape[-1], device=weight.device)
        if torch.allclose(fused(x), module(x), rtol=1e-5, atol=1e-6):
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, fused)
            replaced += 1
    return replaced
