"""Medusa heads: the plain-torch reference.

Semantics of head ``k`` with ``L`` residual layers (Cai et al. 2024, arXiv 2401.10774)::

    h_0 = hidden;   h_{l+1} = h_l + SiLU(W[k, l] @ h_l + b[k, l])

followed by the base model's lm head (v2) or the head's own (v1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def head_states(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """States of all heads, ready for an lm head.

    Args:
        hidden: [rows, hidden_size], the last hidden state after the final norm.
        weight: [heads, layers, hidden_size, hidden_size]; bias: [heads, layers, hidden_size].

    Returns:
        [heads, rows, hidden_size].
    """
    states = hidden.expand(weight.shape[0], *hidden.shape)
    for layer in range(weight.shape[1]):
        linear = torch.baddbmm(bias[:, layer, None], states, weight[:, layer].transpose(1, 2))
        states = states + F.silu(linear)
    return states
