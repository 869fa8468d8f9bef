"""Layers of the base model that do for every row what its adapter wants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lorax_spec.adapters.linears import is_linear
from lorax_spec.adapters.weights import INPUT, OUTPUT
from lorax_spec.engine.lanes import AdaptedRows
from lorax_spec.engine.replay import Recorder


class LaneHolder:
    """The current step's adapter rows, shared by the layers of one model that these rows go
    through.

    ``recorder`` is set while a pass with adapters is recorded.
    """

    def __init__(self) -> None:
        self.lanes: tuple[AdaptedRows, ...] = ()
        self.recorder: Recorder | None = None


#: Whether adapters change layers, the input embeddings and the output embedding in a pass.
Adapted = tuple[bool, bool, bool]


class Holders:
    """The lanes of a model's layers, of its input and of its output embeddings."""

    def __init__(self) -> None:
        self.inner, self.input, self.output = LaneHolder(), LaneHolder(), LaneHolder()
        self._all = (self.inner, self.input, self.output)

    def show(
        self, lanes: tuple[AdaptedRows, ...], output_lanes: tuple[AdaptedRows, ...]
    ) -> Adapted:
        """The next passes are over these rows; says what adapters change there."""
        self.inner.lanes, self.output.lanes = lanes, output_lanes
        self.input.lanes = tuple(one for one in lanes if one.changes_input)
        return bool(lanes), bool(self.input.lanes), bool(output_lanes)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Passes in between are the base model's."""
        shown = [holder.lanes for holder in self._all]
        for holder in self._all:
            holder.lanes = ()
        yield
        for holder, lanes in zip(self._all, shown, strict=True):
            holder.lanes = lanes

    @contextmanager
    def recorded(self, recorder: Recorder, adapted: Adapted) -> Iterator[None]:
        """What adapters may change is written down in between, for passes that are ``adapted``."""
        for holder, changed in zip(self._all, adapted, strict=True):
            holder.recorder = recorder if changed else None
        yield
        for holder in self._all:
            holder.recorder = None


class AdaptedLayer(nn.Module):
    """A layer, linear or a norm, that does what whichever adapters a row has want: other weights,
    factors and biases, low-rank updates."""

    def __init__(self, base: nn.Module, name: str, holder: LaneHolder) -> None:
        super().__init__()
        self.base = base
        self.name = name
        self._holder = holder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Past Module.__call__: on a small model its bookkeeping costs as much as the product.
        y: torch.Tensor = self.base.forward(x)
        if self._holder.recorder is not None:
            updated: torch.Tensor = self._holder.recorder.leaf(self._adapt, y, x)
            return updated
        return self._adapt(y, x) if self._holder.lanes else y

    def _adapt(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Change ``y`` in place, and give it back."""
        for rows in self._holder.lanes:
            rows.adapt(self.name, self.base, y, x)
        return y


class AdaptedEmbedding(AdaptedLayer):
    """The input embeddings: as AdaptedLayer, for token ids [1, rows]."""

    def _adapt(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        # Some models scale what they look up; PEFT scales what is added likewise.
        scaled: torch.Tensor | None = getattr(self.base, "embed_scale", None)
        factor = 1.0 if scaled is None else scaled.to(y.dtype)
        for rows in self._holder.lanes:
            rows.adapt_embedding(self.name, x.view(-1), y.view(-1, y.shape[-1]), factor)
        return y


def adapt_layers(
    model: nn.Module,
    output: nn.Module,
    embedding: nn.Module,
    holders: Holders,
) -> nn.Module:
    """Wrap whatever adapters may change; gives the wrapped ``output``."""
    for path, module in list(model.named_modules()):
        wrapped: AdaptedLayer | None = None
        if module is output:
            wrapped = AdaptedLayer(module, OUTPUT, holders.output)
        elif module is embedding:
            wrapped = AdaptedEmbedding(module, INPUT, holders.input)
        elif is_linear(module) or _has_bias(module):
            wrapped = AdaptedLayer(module, path, holders.inner)
        if wrapped is not None:
            parent, _, attribute = path.rpartition(".")
            setattr(model.get_submodule(parent), attribute, wrapped)
    found = model.get_output_embeddings()  # type: ignore[operator]
    assert isinstance(found, AdaptedLayer)
    return found


def _has_bias(module: nn.Module) -> bool:
    """Whether it is a norm with a bias, which adapters may train."""
    return isinstance(module, nn.LayerNorm) and module.bias is not None
