"""Matrix products with a weight reordered once for oneDNN.

On processors where torch's float32 products go through MKL's portable code (AMD's, for one), a
product over a few rows costs as much as one product per row.  oneDNN's, over a weight packed into
its own layout, is two to four times as fast from four rows on, no slower over one row of a weight
that is not in the cache, and a row's result has the same bits whatever stands beside it.

In bfloat16 torch's products are oneDNN's, which reorders the weight anew at every call: packed
once, a product over 1 to 8 rows takes half of the time, over 16 two thirds, and prompts gain a
little.
"""

from __future__ import annotations

import torch

#: Of weights whose numbers are what they say; narrower ones go with scales that lie elsewhere.
_PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def is_plain(weight: torch.Tensor) -> bool:
    """Whether it is a tensor of floating-point numbers, not a quantised form of such a one."""
    return type(weight) in (torch.Tensor, torch.nn.Parameter) and weight.dtype in _PLAIN


def can_pack(weight: torch.Tensor) -> bool:
    """Whether this torch build packs such a weight: float32, or bfloat16 where the processor has
    the instructions, on a CPU with oneDNN."""
    if not is_plain(weight) or weight.device.type != "cpu":
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def pack(weight: torch.Tensor) -> torch.Tensor:
    """``weight`` [out_features, in_features] in oneDNN's layout; an opaque tensor of its size."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def packed_linear(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``x @ weight.T + bias`` for x [..., in_features]."""
    y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return y
