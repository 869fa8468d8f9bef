"""Root mean square norm, with or without the sum before it: the plain-torch reference.

Semantics (Zhang and Sennrich 2019, arXiv 1910.07467), for every row::

    normed = weight * round(x / sqrt(mean(x^2) + epsilon))

with the mean and the quotient in float32, rounded to the dtype of ``x`` before the product with the
weight, as transformers' Llama does it.  Of a sum, what is normed is the rounded sum.
"""

from __future__ import annotations

import torch


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """For ``x`` [..., size], ``weight`` [size]."""
    wide = x.float()
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return weight * (wide * inverse).to(x.dtype)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum, normed) of ``residual + x``."""
    total = residual + x
    return total, rms_norm(total, weight, epsilon)
