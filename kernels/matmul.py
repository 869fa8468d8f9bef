"""Products whose rows do not depend on each other: the plain-torch reference.

Semantics: ``y[r, o] = sum over i of x[r, i] * weight[o, i] + bias[o]``, summed in float32 and
rounded once to the dtype of ``x``.  The sum over ``i`` is taken in parts of equal length, each by
itself, and the parts are added in order, so that it makes no difference to a single bit how many
rows there are or whether the parts were computed one after the other.
"""

from __future__ import annotations

import torch


def split_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, part: int
) -> torch.Tensor:
    """``x @ weight.T + bias`` [rows, out], in parts of ``part`` inputs each.

    Args:
        x: [rows, in].
        weight: [out, in].
        bias: [out] or None.
    """
    total = torch.zeros(len(x), len(weight), dtype=torch.float32, device=x.device)
    for some_x, some_weight in zip(x.split(part, 1), weight.split(part, 1), strict=True):
        total += some_x.float() @ some_weight.float().T
    if bias is not None:
        total += bias.float()
    return total.to(x.dtype)
