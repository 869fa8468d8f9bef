"""Wide LoRA updates, Medusa and Hydra heads: real bytes, and the small ones' outputs.

Hydra heads keep their inner size, which nothing ties to the model's: beside a wide model of few
layers they are as small then as heads of full width are beside a deep one (six heads have a tenth
of the weights of the 100m shape's layers, at full width more than a third; of a 7B model they have
a twelfth).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from lorax_spec.bench.widening.axes import Axes
from lorax_spec.bench.widening.base import LAYERS, LINEARS, Tensors
from lorax_spec.bench.widening.shape import Shape
from lorax_spec.bench.widening.weights import Widener
from lorax_spec.errors import InvalidArgument

_LORA = re.compile(
    rf"base_model\.model\.{re.escape(LAYERS)}(?P<layer>\d+)\.(?P<path>[\w.]+)"
    r"\.lora_(?P<side>[AB])\.weight"
)
_BLOCK = re.compile(r"\d+\.\d+\.linear\.(?P<kind>weight|bias)")
_OWN_LM_HEAD = re.compile(r"\d+\.\d+\.weight")
_HYDRA = re.compile(r"hydra\.(?P<head>\d+)\.(?P<side>in|out)\.(?P<kind>weight|bias)")


def widen_adapter(
    tensors: Mapping[str, torch.Tensor], small: Shape, wide: Shape, axes: Axes, widener: Widener
) -> Tensors:
    """The tensors of a wide adapter.

    Layers beyond the small model's get noise for updates, of the modules that have one in every
    small layer.  Raises InvalidArgument where a tensor's name is unknown, or where its shape is
    not that of ``small``.
    """
    made = {}
    for name, tensor in tensors.items():
        try:
            made[name] = _widened(name, tensor, small, wide, axes, widener)
        except InvalidArgument as error:
            raise InvalidArgument(f"tensor {name}: {error.message}", "adapter") from None
    return made | dict(_idle_updates(tensors, small, wide, axes, widener))


def widen_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a wide adapter that lies in ``adapters/<name>`` beside ``base``."""
    return {**config, "base_model_name_or_path": "../../base"}


def _widened(
    name: str, tensor: torch.Tensor, small: Shape, wide: Shape, axes: Axes, widener: Widener
) -> torch.Tensor:
    lora = _LORA.fullmatch(name)
    if lora and lora["path"] in LINEARS and int(lora["layer"]) < small.layers:
        writes, reads = LINEARS[lora["path"]].axes(axes)
        if lora["side"] == "A":
            return widener.matrix(tensor, None, reads)
        return widener.matrix(tensor, writes)
    # What heads make of the hidden state's zeros stays zero: a tiled lm head reads all of it.
    if block := _BLOCK.fullmatch(name):
        if block["kind"] == "bias":
            return widener.vector(tensor, axes.hidden)
        return widener.matrix(tensor, axes.hidden, axes.hidden)
    if _OWN_LM_HEAD.fullmatch(name):
        return widener.matrix(tensor, None, axes.hidden)
    if hydra := _HYDRA.fullmatch(name):
        match hydra["side"], hydra["kind"]:
            case "in", "weight":
                embedded = [axes.stream] * (int(hydra["head"]) + 1)
                return widener.matrix(tensor, None, axes.hidden, *embedded)
            case "in", "bias":
                return widener.matrix(tensor, None)
            case "out", "weight":
                return widener.matrix(tensor, axes.hidden)
        return widener.vector(tensor, axes.hidden)
    raise InvalidArgument("it is none that can be widened")


def _idle_updates(
    tensors: Mapping[str, torch.Tensor], small: Shape, wide: Shape, axes: Axes, widener: Widener
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of layers that must add nothing to the residual stream."""
    for path, linear in LINEARS.items():
        if all(_lora(layer, path, "A") in tensors for layer in range(small.layers)):
            writes, reads = linear.axes(axes)
            rank = len(tensors[_lora(0, path, "A")])
            fill = widener.zeros if writes is axes.stream else widener.noise
            for layer in range(small.layers, wide.layers):
                yield _lora(layer, path, "A"), widener.noise(rank, reads.size)
                yield _lora(layer, path, "B"), fill(writes.size, rank)


def _lora(layer: int, path: str, side: str) -> str:
    return f"base_model.model.{LAYERS}{layer}.{path}.lora_{side}.weight"
