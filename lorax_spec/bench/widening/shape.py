"""The shapes a model may be widened to, and whether the result is exact there."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from lorax_spec.errors import InvalidArgument


class Variant(enum.StrEnum):
    """What fills the wide residual stream beside the small one.

    ``zero``: zeros, which cost the same time where memory is the limit.  ``tile``: copies of the
    small stream, so that no activation is zero and a GPU draws its usual power.
    """

    ZERO = "zero"
    TILE = "tile"


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama; its vocabulary is not among them, for widening keeps it."""

    hidden_size: int
    layers: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        """Query heads per key head."""
        return self.heads // self.kv_heads

    def parameters(self, vocabulary: int, tied: bool) -> int:
        """How many there are, biases left out."""
        heads = 2 * self.head_dim * (self.heads + self.kv_heads)
        layer = self.hidden_size * (heads + 3 * self.intermediate_size + 2)
        return (
            self.layers * layer
            + self.hidden_size
            + vocabulary * self.hidden_size * (1 if tied else 2)
        )

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {size}" for name, size in asdict(self).items())


class Preset(enum.StrEnum):
    """Shapes by how many parameters they have with the embedded model's vocabulary; 8b has the
    eighth billion in its own."""

    M100 = "100m"
    M200 = "200m"
    M400 = "400m"
    B1 = "1b"
    B7 = "7b"
    B8 = "8b"


#: All exact for the embedded model, in both variants; the last two are Llama 2's and Llama 3's.
PRESETS = {
    Preset.M100: Shape(1024, 8, 2816, 8, 4, 128),
    Preset.M200: Shape(1024, 16, 3072, 8, 4, 128),
    Preset.M400: Shape(1024, 24, 3328, 16, 8, 128),
    Preset.B1: Shape(1024, 32, 8192, 16, 8, 128),
    Preset.B7: Shape(4096, 32, 11008, 32, 32, 128),
    Preset.B8: Shape(4096, 32, 14336, 32, 8, 128),
}

#: Scalings of the rotary frequencies that look at the frequency alone, not at its place.
_ROPES = ("default", "linear", "llama3")


def shape_of(config: Any) -> Shape:
    """The shape a transformers ``LlamaConfig`` describes.

    Raises InvalidArgument where the model is none that can be widened.
    """
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if config.model_type != "llama" or rope not in _ROPES:
        raise InvalidArgument(
            f"only Llama models with rope type {', '.join(_ROPES)} can be widened; this one is "
            f"{config.model_type} with rope type {rope}",
            field="model_id",
        )
    return Shape(
        config.hidden_size,
        config.num_hidden_layers,
        config.intermediate_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    )


def require_exact(small: Shape, wide: Shape, variant: Variant) -> None:
    """Raises InvalidArgument, saying what is wrong and what is right, where no widening exists."""
    if wrong := list(_faults(small, wide, variant)):
        raise InvalidArgument(
            f"{small} cannot be widened exactly to {wide}: {'; '.join(wrong)}", field="shape"
        )


def roundings(small: Shape, wide: Shape, variant: Variant) -> Iterator[str]:
    """Where a widening is exact in real arithmetic only, for want of a square root."""
    ratio = wide.hidden_size / small.hidden_size
    if variant is Variant.ZERO and not _is_power_of_4(ratio):
        yield (
            f"hidden size {wide.hidden_size} is {ratio:g} times {small.hidden_size}, no power of "
            "4: norm weights are rounded; the tile variant's are not"
        )
    ratio = wide.head_dim / small.head_dim
    if not _is_power_of_4(ratio):
        yield (
            f"head dim {wide.head_dim} is {ratio:g} times {small.head_dim}, no power of 4: "
            "query weights are rounded"
        )


def kv_copies(small: Shape, wide: Shape) -> int:
    """How many wide key heads share the queries of one small key head."""
    return -(-small.group // wide.group)


def _faults(small: Shape, wide: Shape, variant: Variant) -> Iterator[str]:
    for name, least in asdict(small).items():
        size = getattr(wide, name)
        if size < least and name not in ("heads", "kv_heads"):
            yield f"{name.replace('_', ' ')} must be at least {least}, not {size}"
    if variant is Variant.TILE and wide.hidden_size % small.hidden_size:
        yield f"hidden size must be a multiple of {small.hidden_size} in the tile variant"
    if wide.head_dim % small.head_dim:
        yield f"head dim must be a multiple of {small.head_dim}, not {wide.head_dim}"
    if wide.heads > 0 and wide.hidden_size % wide.heads:  # transformers' own rule for a Llama
        yield f"hidden size {wide.hidden_size} must be a multiple of heads {wide.heads}"
    if wide.kv_heads < 1 or wide.heads < 1 or wide.heads % wide.kv_heads:
        yield f"heads must be a multiple of kv heads, not {wide.heads} of {wide.kv_heads}"
    elif wide.kv_heads < (least := small.kv_heads * kv_copies(small, wide)):
        yield (
            f"with {wide.group} query heads to a key head, kv heads must be at least {least}, "
            f"not {wide.kv_heads}"
        )


def _is_power_of_4(ratio: float) -> bool:
    mantissa, exponent = math.frexp(ratio)
    return mantissa == 0.5 and exponent % 2 == 1
