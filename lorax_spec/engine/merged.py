"""Linear layers whose products are computed together, or exactly, on a GPU.

Layers of one input become one product over their weights put together.  Each gives its own part of
it, to which an adapter's rows can be added; each weight becomes a part of the one tensor, so that
nothing lies in memory twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from lorax_spec.engine.packed import PackedLinear, SharedProduct
from lorax_spec.engine.watched import TOLERANCES, alike, put, random_rows
from lorax_spec.kernels.linear import is_plain
from lorax_spec.kernels.triton.linear import linear


class MergedLinear(PackedLinear):
    """A layer whose weight is a part of the one tensor that its product is computed with."""


class ExactLinear(PackedLinear):
    """Likewise, or of a weight of its own; a row's bits do not depend on the rows beside it."""


def replace_linears(
    model: nn.Module, groups: Sequence[Sequence[str]], exact: bool
) -> Iterator[str]:
    """Names of the layers that were replaced: those of ``groups`` (see ``shared_inputs``) and, if
    ``exact``, all others too."""
    linears = {
        name: m for name, m in model.named_modules() if type(m) is nn.Linear and is_plain(m.weight)
    }
    together = [list(group) for group in groups if all(name in linears for name in group)]
    if exact:
        grouped = {name for group in together for name in group}
        together += [[name] for name in linears if name not in grouped]
    for group in together:
        for name, layer in zip(group, _merged([linears[n] for n in group], exact), strict=False):
            put(model, name, layer)
            yield name


def _merged(linears: Sequence[nn.Linear], exact: bool) -> Sequence[PackedLinear]:
    """What to put in their places; nothing, and nothing changed, where it is not the same."""
    weights = [layer.weight for layer in linears]
    if weights[0].dtype not in TOLERANCES or len({weight.dtype for weight in weights}) > 1:
        return []
    x = random_rows(weights[0], linears[0].in_features)
    expected = [layer(x) for layer in linears]

    def prepare(
        weight: torch.Tensor, bias: torch.Tensor | None
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        if len(linears) > 1:
            parts = weight.split([layer.out_features for layer in linears])
            for layer, part in zip(linears, parts, strict=True):
                layer.weight = nn.Parameter(part, requires_grad=False)
        return lambda x: (_exact if exact else F.linear)(x, weight, bias)

    product = SharedProduct(linears, prepare)
    kind = ExactLinear if exact else MergedLinear
    layers = [kind(layer, product, index) for index, layer in enumerate(linears)]
    if all(alike(layer(x), y) for layer, y in zip(layers, expected, strict=True)):
        return layers
    for layer, before in zip(linears, weights, strict=True):
        layer.weight = before
    return []


def _exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return linear(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], len(weight))
