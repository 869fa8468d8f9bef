"""Layers of the base model that do for every row what its adapter wants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lorax_spec.adapters.weights import INPUT, OUTPUT, LayerChange
from lorax_spec.engine.lanes import Lanes
from lorax_spec.engine.replay import Recorder
from lorax_spec.kernels.lora import (
    add_embedding_lora,
    add_lora,
    put_embeddings,
    put_linear,
    rescale,
)


class LaneHolder:
    """The current step's adapter rows, shared by the layers of one model that these rows go
    through.

    ``recorder`` is set while a pass with adapters is recorded.
    """

    def __init__(self) -> None:
        self.lanes: tuple[Lanes, ...] = ()
        self.recorder: Recorder | None = None


#: Whether adapters change layers, the input embeddings and the output embedding in a pass.
Adapted = tuple[bool, bool, bool]


class Holders:
    """The lanes of a model's layers, of its input and of its output embeddings."""

    def __init__(self) -> None:
        self.inner, self.input, self.output = LaneHolder(), LaneHolder(), LaneHolder()
        self._all = (self.inner, self.input, self.output)

    def show(self, lanes: tuple[Lanes, ...], output_lanes: tuple[Lanes, ...]) -> Adapted:
        """The next passes are over these rows; says what adapters change there."""
        self.inner.lanes, self.output.lanes = lanes, output_lanes
        self.input.lanes = tuple(
            one for one in lanes if INPUT in one.scales or INPUT in one.changed
        )
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
        self._name = name
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
        for lanes in self._holder.lanes:
            if self._name in lanes.changed:
                flat_y, flat_x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
                _change(self.base, flat_y, flat_x, lanes, _changes(lanes, self._name))
            scale = lanes.scales.get(self._name)
            if scale is not None:
                modules = [adapter.modules[self._name] for adapter in lanes.adapters]
                a = torch.stack([module.a for module in modules])
                b = torch.stack([module.b for module in modules])
                flat_y, flat_x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
                add_lora(flat_y, flat_x, lanes.rows, lanes.kept, a, b, scale.to(x.dtype))
        return y


class AdaptedEmbedding(AdaptedLayer):
    """The input embeddings: as AdaptedLayer, for token ids [1, rows]."""

    def _adapt(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        ids, flat = x.view(-1), y.view(-1, y.shape[-1])
        # Some models scale what they look up; PEFT scales what is added likewise.
        scaled: torch.Tensor | None = getattr(self.base, "embed_scale", None)
        factor = 1.0 if scaled is None else scaled.to(y.dtype)
        for lanes in self._holder.lanes:
            if self._name in lanes.changed:
                weights = [one.weight for one in _changes(lanes, self._name)]
                tables = [weight for weight in weights if weight is not None]
                put_embeddings(flat, ids, lanes.rows, lanes.kept, tables, factor)
            scale = lanes.scales.get(self._name)
            if scale is not None:
                modules = [adapter.modules[self._name] for adapter in lanes.adapters]
                a, b = [module.a for module in modules], torch.stack([m.b for m in modules])
                scale = scale.to(y.dtype) * factor
                add_embedding_lora(flat, ids, lanes.rows, lanes.kept, a, b, scale)
        return y


def _changes(lanes: Lanes, name: str) -> list[LayerChange]:
    return [adapter.changes[name] for adapter in lanes.adapters]


def _change(
    base: nn.Module,
    y: torch.Tensor,
    x: torch.Tensor,
    lanes: Lanes,
    changes: list[LayerChange],
) -> None:
    """All changes are of one form: adapters of a lane have one layout."""
    if weights := [one.weight for one in changes if one.weight is not None]:
        put_linear(y, x, lanes.rows, lanes.kept, weights, getattr(base, "bias", None))
    factors = [one.factor for one in changes if one.factor is not None]
    biases = [one.bias for one in changes if one.bias is not None]
    if factors or biases:
        rescale(
            y,
            lanes.rows,
            lanes.kept,
            torch.stack(factors) if factors else None,
            torch.stack(biases) if biases else None,
        )


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
        elif isinstance(module, nn.Linear) or _has_bias(module):
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
