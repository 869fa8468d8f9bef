"""Linear layers of a model, plain or quantised, and the weights they compute with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from lorax_spec.kernels.linear import is_plain

#: Columns of a quantised weight that are asked for at a time.
_COLUMNS = 512
#: What is put in for a column of a layer with a bias, so that the sum rounds little of it away.
_LARGE = 256.0


def is_linear(module: torch.nn.Module) -> bool:
    """Whether it is a linear layer: torch's or, for packed weights, one of a class of its own, as
    GPTQ's and AWQ's are."""
    if isinstance(module, torch.nn.Linear):
        return True
    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    if not all(type(size) is int for size in sizes):
        return False
    # Others with sizes of these names, such as layers of experts, have matrices.
    return not any(p.dim() > 1 and p.is_floating_point() for p in module.parameters())


def is_quantized_linear(module: torch.nn.Module) -> bool:
    weight: torch.Tensor | None = getattr(module, "weight", None)
    return is_linear(module) and (weight is None or not is_plain(weight))


def parameters_of(model: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    """By name; tied ones by each of their names.

    ``.weight`` of a quantised layer is the weight it computes with, worked out anew by whoever asks
    for it.
    """
    layers = {path: module for path, module in model.named_modules() if is_quantized_linear(module)}
    plain = {
        name: parameter.detach()
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if name.rpartition(".")[0] not in layers
    }
    for path, layer in layers.items():
        # GPTQ's is a buffer.
        if isinstance(bias := getattr(layer, "bias", None), torch.Tensor):
            plain[f"{path}.bias"] = bias.detach()
    return _Weights(plain, layers) if layers else plain


class _Weights(Mapping[str, torch.Tensor]):
    def __init__(
        self, plain: Mapping[str, torch.Tensor], layers: Mapping[str, torch.nn.Module]
    ) -> None:
        self._plain = plain
        self._layers = {f"{path}.weight": layer for path, layer in layers.items()}
        self._like = next(tensor for tensor in plain.values() if is_plain(tensor))

    def __getitem__(self, name: str) -> torch.Tensor:
        if name in self._plain:
            return self._plain[name]
        return dequantized(self._layers[name], self._like)

    def __contains__(self, name: object) -> bool:
        return name in self._plain or name in self._layers

    def __iter__(self) -> Iterator[str]:
        yield from self._plain
        yield from self._layers

    def __len__(self) -> int:
        return len(self._plain) + len(self._layers)


@torch.no_grad()
def dequantized(layer: Any, like: torch.Tensor) -> torch.Tensor:
    """The weight [out_features, in_features] of a linear layer, whatever form it is in: what the
    layer makes of unit vectors.  ``like``: of their dtype, on their device."""
    size = int(layer.in_features)
    bias: torch.Tensor | None = getattr(layer, "bias", None)
    unit = 1.0 if bias is None else _LARGE
    columns = []
    for first in range(0, size, _COLUMNS):
        places = torch.arange(first, min(size, first + _COLUMNS), device=like.device)
        x = torch.zeros(len(places), size, dtype=like.dtype, device=like.device)
        x[places - first, places] = unit
        y = layer.forward(x)
        columns.append(y if bias is None else (y - bias) / unit)
    return torch.cat(columns).T
