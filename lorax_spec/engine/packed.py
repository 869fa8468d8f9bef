"""Linear layers over packed weights, for models of moderate size on a CPU.

Layers that are given the same input (a block's query, key and value; its gate and up) are one
product over their weights put together: fewer and longer calls, which is most of the time of one
row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from lorax_spec.kernels.linear import can_pack, pack, packed_linear

#: Bytes of weights beyond which a second copy of them costs more memory than the time is worth.
LARGEST_MODEL = 2 * 2**30


#: (weight, bias) to the function from x to ``x @ weight.T + bias``.
Prepare = Callable[[torch.Tensor, torch.Tensor | None], Callable[[torch.Tensor], torch.Tensor]]


def _packed(
    weight: torch.Tensor, bias: torch.Tensor | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    packed = pack(weight)
    return lambda x: packed_linear(x, packed, bias)


class SharedProduct:
    """One product for several layers of one input: computed when the first of them asks, handed
    out part by part.

    ``prepare`` makes it of all their weights and biases put together.
    """

    def __init__(self, layers: Sequence[nn.Linear], prepare: Prepare = _packed) -> None:
        weights = [layer.weight.detach() for layer in layers]
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self._multiply = prepare(
            torch.cat(weights) if len(weights) > 1 else weights[0],
            torch.cat(biases) if biases else None,
        )
        self._sizes = [layer.out_features for layer in layers]
        self._input: torch.Tensor | None = None
        self._parts: dict[int, torch.Tensor] = {}

    def part(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """``x @ weight.T + bias`` of layer ``index``; a view where there are several."""
        if len(self._sizes) == 1:
            return self._multiply(x)
        if x is not self._input or index not in self._parts:
            product = self._multiply(x)
            self._input, self._parts = x, dict(enumerate(product.split(self._sizes, -1)))
        part = self._parts.pop(index)
        if not self._parts:
            self._input = None
        return part


class PackedLinear(nn.Linear):
    """A linear layer that keeps its weight as it was, for whoever asks, and computes packed."""

    def __init__(self, linear: nn.Linear, product: SharedProduct, index: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self._product = product
        self._index = index

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._product.part(self._index, x)


def pack_linears(model: nn.Module, groups: Sequence[Sequence[str]] = ()) -> list[PackedLinear]:
    """Replace the linear layers of ``model`` where packing is possible and cheap enough.

    ``groups`` names layers that share their input (see ``shared_inputs``).
    """
    if sum(p.nbytes for p in model.parameters()) > LARGEST_MODEL:
        return []
    linears = {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and can_pack(module.weight)
    }
    together = [list(group) for group in groups if all(name in linears for name in group)]
    grouped = {name for group in together for name in group}
    together += [[name] for name in linears if name not in grouped]
    layers = []
    for group in together:
        product = SharedProduct([linears[name] for name in group])
        for index, name in enumerate(group):
            parent, _, attribute = name.rpartition(".")
            layers.append(PackedLinear(linears[name], product, index))
            setattr(model.get_submodule(parent), attribute, layers[-1])
    return layers


@torch.inference_mode()
def shared_inputs(model: nn.Module) -> list[list[str]]:
    """Names of linear layers that one and the same tensor is given to, seen in a pass over one
    token; only layers that all have a bias or all have none."""
    seen: dict[tuple[int, bool], list[str]] = {}
    inputs: list[torch.Tensor] = []  # kept, so that no id is given twice
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):

            def note(
                layer: nn.Module, arguments: tuple[torch.Tensor, ...], name: str = name
            ) -> None:
                inputs.append(arguments[0])
                key = (id(arguments[0]), layer.bias is not None)
                seen.setdefault(key, []).append(name)

            hooks.append(module.register_forward_pre_hook(note))
    device = next(model.parameters()).device
    model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=device), use_cache=False)
    for hook in hooks:
        hook.remove()
    return [names for names in seen.values() if len(names) > 1]
