"""From a small model's folder and its adapters' to those of a wide one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from lorax_spec.bench.widening import base
from lorax_spec.bench.widening.adapter import widen_adapter, widen_config
from lorax_spec.bench.widening.axes import Axes, axes
from lorax_spec.bench.widening.folder import (
    copy_beside,
    new_folder,
    read_json,
    read_tensors,
    write_json,
    write_sharded,
)
from lorax_spec.bench.widening.shape import Shape, Variant, require_exact, roundings, shape_of
from lorax_spec.bench.widening.weights import Widener
from lorax_spec.errors import InvalidArgument

Item = TypeVar("Item")

_BASE_CONFIG = "config.json"
_ADAPTER_CONFIGS = ("adapter_config.json", "config.json")


class Track(Protocol):
    """The same items, with a bar that moves along."""

    def __call__(self, items: Iterable[Item], total: int, what: str, /) -> Iterator[Item]: ...


def untracked(items: Iterable[Item], _total: int, _what: str, /) -> Iterator[Item]:
    """No bar."""
    return iter(items)


@dataclass(frozen=True)
class Plan:
    """What to make of what."""

    source: Path
    output: Path
    wide: Shape
    adapters: Sequence[Path] = ()
    variant: Variant = Variant.ZERO
    dtype: torch.dtype = torch.bfloat16
    device: str = "cpu"
    seed: int = 0


@dataclass(frozen=True)
class Widened:
    """What was made: ``base`` for transformers and the engine, ``adapters`` for an adapter root.

    ``inexact`` says where weights had to be rounded.
    """

    base: Path
    adapters: Path
    parameters: int
    bytes: int
    inexact: tuple[str, ...]


def widen(plan: Plan, track: Track = untracked) -> Widened:
    """Write ``output/base`` and ``output/adapters/<name>``.

    Greedy answers, and what heads guess, are those of the small model but for rounding.  Memory
    holds the small model and one wide layer, or one wide adapter.

    Raises InvalidArgument where the model, the shape or an adapter cannot be widened, or where
    ``output`` holds something.
    """
    if not (plan.source / _BASE_CONFIG).is_file():
        raise InvalidArgument(f"{plan.source} is no model's folder", field="model_id")
    config = AutoConfig.from_pretrained(plan.source)
    small, wide = shape_of(config), plan.wide
    require_exact(small, wide, plan.variant)
    names = [folder.name for folder in plan.adapters]
    if len(set(names)) < len(names):
        raise InvalidArgument(f"two adapters have one name: {', '.join(names)}", field="adapter")
    with torch.device(plan.device):
        spaces = axes(small, wide, plan.variant)
    widener = Widener(torch.Generator(plan.device).manual_seed(plan.seed), plan.dtype)
    tied = bool(config.tie_word_embeddings)
    with new_folder(plan.output) as folder:
        (folder / "adapters").mkdir()
        for source in track(plan.adapters, len(plan.adapters), "adapters"):
            write_adapter(source, folder / "adapters" / source.name, small, wide, spaces, widener)
        (folder / "base").mkdir()
        config.update(wide_config(config.rms_norm_eps, wide, spaces, plan.dtype))
        config.save_pretrained(folder / "base")
        copy_beside(plan.source, folder / "base", _BASE_CONFIG)
        parts = base.parts(read_tensors(plan.source), small, wide, spaces, widener, tied)
        tracked = track(parts, wide.layers + 1, "base")
        size = write_sharded(tracked, wide.layers + 1, folder / "base")
    return Widened(
        plan.output / "base",
        plan.output / "adapters",
        wide.parameters(config.vocab_size, tied),
        size,
        tuple(roundings(small, wide, plan.variant)),
    )


def wide_config(eps: float, wide: Shape, spaces: Axes, dtype: torch.dtype) -> dict[str, object]:
    """What differs in a wide model's config; ``eps`` is the small model's."""
    return {
        "hidden_size": wide.hidden_size,
        "num_hidden_layers": wide.layers,
        "intermediate_size": wide.intermediate_size,
        "num_attention_heads": wide.heads,
        "num_key_value_heads": wide.kv_heads,
        "head_dim": wide.head_dim,
        "rms_norm_eps": eps * spaces.stream.mean_square(),
        "dtype": dtype,
    }


def write_adapter(
    source: Path, target: Path, small: Shape, wide: Shape, spaces: Axes, widener: Widener
) -> None:
    """Widen the adapter of ``source`` into the new folder ``target``.

    Raises InvalidArgument where it cannot be widened.
    """
    target.mkdir()
    configs = [name for name in _ADAPTER_CONFIGS if (source / name).is_file()]
    files = sorted(source.glob("*.safetensors"))
    if not configs or not files:
        raise InvalidArgument(f"{source} is no adapter's folder with safetensors", field="adapter")
    for file in files:
        made = widen_adapter(load_file(file), small, wide, spaces, widener)
        save_file(made, target / file.name, metadata={"format": "pt"})
    for name in configs:
        write_json(target / name, widen_config(read_json(source / name)))
    copy_beside(source, target, *configs)
