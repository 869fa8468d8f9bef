"""Hydra heads: the plain-torch reference.

Semantics of head ``k`` with an inner layer (Ankner et al. 2024, arXiv 2402.05109)::

    x = concat(hidden, e(t_0), ..., e(t_k))
    state = hidden + W_out @ SiLU(W_in @ x + b_in) + b_out

followed by the base model's lm head; ``t_0`` is the last committed token, ``t_1`` to ``t_k`` are
the tokens drafted after it, and ``e`` is the base model's input embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def head_states(
    hidden: torch.Tensor,
    embedded: torch.Tensor,
    input_weight: torch.Tensor,
    input_bias: torch.Tensor,
    output_weight: torch.Tensor,
    output_bias: torch.Tensor,
) -> torch.Tensor:
    """States of one head, ready for the lm head.

    Args:
        hidden: [rows, hidden_size], the lm head's input of the row that ``t_0`` was chosen from.
        embedded: [rows, k + 1, hidden_size], embeddings of ``t_0`` to ``t_k``.
        input_weight: [inner, (k + 2) * hidden_size]; input_bias: [inner].
        output_weight: [hidden_size, inner]; output_bias: [hidden_size].

    Returns:
        [rows, hidden_size].
    """
    inputs = torch.cat([hidden, embedded.flatten(1)], dim=1)
    inner = F.silu(F.linear(inputs, input_weight, input_bias))
    return hidden + F.linear(inner, output_weight, output_bias)
