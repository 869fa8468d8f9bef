"""The product inside a gated feed-forward layer: the plain-torch reference.

Semantics (SwiGLU: Shazeer 2020, arXiv 2002.05202): ``round(silu(gate)) * up``, with
``silu(z) = z / (1 + exp(-z))`` in float32, rounded to the dtype before the product, as torch does
it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def silu_product(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """For ``gate`` and ``up`` [..., size]."""
    return F.silu(gate) * up
