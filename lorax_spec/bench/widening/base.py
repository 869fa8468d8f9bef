"""A wide base model, part by part, so that no more than a layer is in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from lorax_spec.bench.widening.axes import Axes, Axis
from lorax_spec.bench.widening.shape import Shape
from lorax_spec.bench.widening.weights import Widener
from lorax_spec.errors import InvalidArgument

Tensors = dict[str, torch.Tensor]

LAYERS = "model.layers."
_EMBEDDING, _NORM, _LM_HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
_NORMS = ("input_layernorm", "post_attention_layernorm")


@dataclass(frozen=True)
class Linear:
    """The spaces of a layer's linear module, by their names among the axes."""

    writes: str
    reads: str

    def axes(self, axes: Axes) -> tuple[Axis, Axis]:
        """(written, read)"""
        return getattr(axes, self.writes), getattr(axes, self.reads)


#: By path inside a layer.
LINEARS: Mapping[str, Linear] = {
    "self_attn.q_proj": Linear("query", "stream"),
    "self_attn.k_proj": Linear("key", "stream"),
    "self_attn.v_proj": Linear("value", "stream"),
    "self_attn.o_proj": Linear("stream", "context"),
    "mlp.gate_proj": Linear("inner", "stream"),
    "mlp.up_proj": Linear("inner", "stream"),
    "mlp.down_proj": Linear("stream", "inner"),
}


def parts(
    tensors: Mapping[str, torch.Tensor],
    small: Shape,
    wide: Shape,
    axes: Axes,
    widener: Widener,
    tied: bool,
) -> Iterator[Tensors]:
    """The wide model's tensors: embedding and lm head first, then layer by layer.

    Layers beyond the small model's add exact zeros to the residual stream.

    Raises InvalidArgument where a tensor is missing or unknown.
    """
    _check_names(tensors, small, tied)
    ends = {
        _EMBEDDING: widener.table(tensors[_EMBEDDING], axes.stream),
        _NORM: widener.norm(tensors[_NORM], axes.stream, axes.hidden),
    }
    if not tied:
        ends[_LM_HEAD] = widener.matrix(tensors[_LM_HEAD], None, axes.hidden)
    yield ends
    for layer in range(wide.layers):
        # One beyond the small model's is modelled on the first: it has the same biases.
        prefix = f"{LAYERS}{layer if layer < small.layers else 0}."
        like = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        made = (_layer if layer < small.layers else _idle_layer)(like, axes, widener)
        yield {f"{LAYERS}{layer}.{name}": tensor for name, tensor in made.items()}


def _layer(tensors: Mapping[str, torch.Tensor], axes: Axes, widener: Widener) -> Tensors:
    made = {}
    for name, tensor in tensors.items():
        path, _, kind = name.rpartition(".")
        if path in _NORMS:
            made[name] = widener.norm(tensor, axes.stream, axes.stream)
        elif kind == "bias":
            made[name] = widener.vector(tensor, LINEARS[path].axes(axes)[0])
        else:
            made[name] = widener.matrix(tensor, *LINEARS[path].axes(axes))
    return made


def _idle_layer(names: Mapping[str, torch.Tensor], axes: Axes, widener: Widener) -> Tensors:
    """Computes noise, and writes zeros."""
    made = {}
    for name in names:
        path, _, kind = name.rpartition(".")
        if path in _NORMS:
            made[name] = widener.noise(axes.stream.size) + 1
            continue
        writes, reads = LINEARS[path].axes(axes)
        shape = (writes.size,) if kind == "bias" else (writes.size, reads.size)
        made[name] = (widener.zeros if writes is axes.stream else widener.noise)(*shape)
    return made


def _check_names(tensors: Mapping[str, torch.Tensor], small: Shape, tied: bool) -> None:
    needed = {_EMBEDDING, _NORM} | (set() if tied else {_LM_HEAD})
    known = set(needed)
    for prefix in (f"{LAYERS}{layer}." for layer in range(small.layers)):
        norms = {f"{prefix}{name}.weight" for name in _NORMS}
        weights = {f"{prefix}{path}.weight" for path in LINEARS}
        needed |= norms | weights
        known |= norms | weights | {f"{prefix}{path}.bias" for path in LINEARS}
    if missing := sorted(needed - tensors.keys()):
        raise InvalidArgument(f"the model lacks {missing[0]}", field="model_id")
    if unknown := sorted(tensors.keys() - known):
        raise InvalidArgument(f"tensor {unknown[0]} cannot be widened", field="model_id")
