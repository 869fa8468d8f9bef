"""Linear layers over packed weights, for small float32 models on a CPU."""

from __future__ import annotations

import torch
from torch import nn

from lorax_spec.kernels.linear import can_pack, pack, packed_linear

#: Beyond this a second copy of the weights costs more memory than the time is worth.
LARGEST_MODEL = 100_000_000


class PackedLinear(nn.Linear):
    """A linear layer that keeps its weight twice: as it was, for whoever asks, and packed."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self._packed = pack(linear.weight.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return packed_linear(x, self._packed, self.bias)


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
