"""Medusa heads where every row names its adapter's slot: the plain-torch twin.

Semantics: row ``i`` of slot ``s`` gets the states of lorax_spec.kernels.medusa with the weights of
``s``, head ``k`` at ``states[k, i]``.  Rows of a negative slot, and heads that an adapter does not
have, are left as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorax_spec.kernels.medusa import head_states


def put_head_states(
    states: torch.Tensor,
    hidden: torch.Tensor,
    slot_of_row: torch.Tensor,
    weights: Sequence[torch.Tensor | None],
    biases: Sequence[torch.Tensor | None],
) -> None:
    """Write the states of all heads of all adapters into ``states``.

    Args:
        states: [most heads, rows, hidden_size].
        hidden: [rows, hidden_size], as in ``head_states``.
        slot_of_row: int64 [rows].
        weights, biases: of every slot [heads, layers, hidden_size, hidden_size] and [heads,
            layers, hidden_size], or None for one that no row names.
    """
    for slot, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        rows = (slot_of_row == slot).nonzero().flatten()
        if weight is not None and bias is not None and len(rows):
            found = head_states(hidden.index_select(0, rows), weight, bias)
            states[: len(weight)].index_copy_(1, rows, found)
