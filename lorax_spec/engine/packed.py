"""Linear layers over packed weights, for small float32 models on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from lorax_spec.kernels.linear import can_pack, pack, packed_linear

#: Beyond this a second copy of the weights costs more memory than the time is worth.
LARGEST_MODEL = 100_000_000


class PackedLinear(nn.Linear):
    """A linear layer that keeps its weight twice: as it was, and packed.

    One row alone is a little faster by a plain matrix-vector product, but rounds otherwise than
    the same row among others.  ``always`` gives that up, so that every row has the same bits in
    any company.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        # Plain attributes: a module's parameters are looked up slowly.
        self._plain = linear.weight.detach()
        self._packed = pack(self._plain)
        self.always = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.always or x.numel() > self.in_features:
            return packed_linear(x, self._packed, self.bias)
        return F.linear(x, self._plain, self.bias)


def pack_linears(model: nn.Module) -> list[PackedLinear]:
    """Replace the linear layers of ``model`` where packing is possible and cheap enough."""
    if sum(p.numel() for p in model.parameters()) > LARGEST_MODEL:
        return []
    layers = []
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and can_pack(module.weight):
            parent, _, attribute = name.rpartition(".")
            layers.append(PackedLinear(module))
            setattr(model.get_submodule(parent), attribute, layers[-1])
    return layers
