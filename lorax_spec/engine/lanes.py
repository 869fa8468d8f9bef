"""Rows of a batch by the adapters they run on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from lorax_spec.adapters.weights import INPUT, LayerChange, LoraWeights
from lorax_spec.kernels.lora import (
    add_embedding_lora,
    add_lora,
    put_embeddings,
    put_linear,
    rescale,
)

#: Rows a tile holds at most; beyond NARROW, prompt chunks fill tiles of WIDE rows.
NARROW, WIDE = 8, 32
#: For exact results, attention's products have at least so many rows, and those of LoRA, whose
#: ranks make them oddly shaped, exactly so many: then no kernel is chosen by the company.
EXACT_ROWS = 8


class AdaptedRows(Protocol):
    """Rows of a step, and what their adapters do to layers."""

    @property
    def changes_input(self) -> bool:
        """Whether it does anything to the input embeddings."""

    def adapt(self, name: str, base: nn.Module, y: torch.Tensor, x: torch.Tensor) -> None:
        """Change ``y``, which the layer ``base`` made of ``x``, in place; both [.., rows, size]."""

    def adapt_embedding(
        self, name: str, ids: torch.Tensor, y: torch.Tensor, factor: torch.Tensor | float
    ) -> None:
        """Change ``y`` [rows, hidden], ``factor`` times the embeddings of ``ids``, in place."""


@dataclass(frozen=True)
class Lanes:
    """Rows that run under adapters of one layout, in tiles of one adapter.

    ``rows`` int64 [tiles, width] padded with repeats; ``kept`` int64 [n] indices into the
    flattened tiles that are not padding; ``scales`` [tiles, 1, 1] of every low-rank module;
    ``changed`` layers have more than that; ``adapters`` one per tile.
    """

    rows: torch.Tensor
    kept: torch.Tensor
    scales: Mapping[str, torch.Tensor]
    changed: Collection[str]
    adapters: tuple[LoraWeights, ...]

    @property
    def changes_input(self) -> bool:
        return INPUT in self.scales or INPUT in self.changed

    def adapt(self, name: str, base: nn.Module, y: torch.Tensor, x: torch.Tensor) -> None:
        if name in self.changed:
            flat_y, flat_x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
            self._change(name, base, flat_y, flat_x)
        scale = self.scales.get(name)
        if scale is not None:
            modules = [adapter.modules[name] for adapter in self.adapters]
            a = torch.stack([module.a for module in modules])
            b = torch.stack([module.b for module in modules])
            flat_y, flat_x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
            add_lora(flat_y, flat_x, self.rows, self.kept, a, b, scale.to(x.dtype))

    def adapt_embedding(
        self, name: str, ids: torch.Tensor, y: torch.Tensor, factor: torch.Tensor | float
    ) -> None:
        if name in self.changed:
            weights = [one.weight for one in self._changes(name)]
            tables = [weight for weight in weights if weight is not None]
            put_embeddings(y, ids, self.rows, self.kept, tables, factor)
        scale = self.scales.get(name)
        if scale is not None:
            modules = [adapter.modules[name] for adapter in self.adapters]
            a, b = [module.a for module in modules], torch.stack([m.b for m in modules])
            scale = scale.to(y.dtype) * factor
            add_embedding_lora(y, ids, self.rows, self.kept, a, b, scale)

    def _change(self, name: str, base: nn.Module, y: torch.Tensor, x: torch.Tensor) -> None:
        """All changes are of one form: adapters of a lane have one layout."""
        changes = self._changes(name)
        if weights := [one.weight for one in changes if one.weight is not None]:
            put_linear(y, x, self.rows, self.kept, weights, getattr(base, "bias", None))
        factors = [one.factor for one in changes if one.factor is not None]
        biases = [one.bias for one in changes if one.bias is not None]
        if factors or biases:
            rescale(
                y,
                self.rows,
                self.kept,
                torch.stack(factors) if factors else None,
                torch.stack(biases) if biases else None,
            )

    def _changes(self, name: str) -> list[LayerChange]:
        return [adapter.changes[name] for adapter in self.adapters]


def lay_lanes(
    adapters: Iterable[tuple[LoraWeights, list[int]]], exact: bool, device: torch.device
) -> Iterator[Lanes]:
    """Lanes of adapters and the rows that run on each; ``exact`` as in ``TileLayout``."""
    groups: dict[tuple[object, ...], list[tuple[LoraWeights, list[int]]]] = {}
    for lora, rows in adapters:
        size = EXACT_ROWS if exact else NARROW if len(rows) <= NARROW else WIDE
        key = (lora.layout, size)
        for start in range(0, len(rows), size):
            groups.setdefault(key, []).append((lora, rows[start : start + size]))
    for tiles in groups.values():
        width = EXACT_ROWS if exact else max(len(rows) for _, rows in tiles)
        padded = [rows + rows[-1:] * (width - len(rows)) for _, rows in tiles]
        kept = [i * width + j for i, (_, rows) in enumerate(tiles) for j in range(len(rows))]
        loras = tuple(lora for lora, _ in tiles)
        yield Lanes(
            rows=torch.tensor(padded, device=device),
            kept=torch.tensor(kept, device=device),
            scales=_scales(loras, device),
            changed=loras[0].changes.keys(),
            adapters=loras,
        )


def _scales(loras: tuple[LoraWeights, ...], device: torch.device) -> dict[str, torch.Tensor]:
    """Modules of equal scales, which are nearly always all, share one tensor."""
    common = [lora.scale for lora in loras]
    if None not in common:
        return dict.fromkeys(loras[0].modules, torch.tensor(common, device=device)[:, None, None])
    paths: dict[tuple[float, ...], list[str]] = {}
    for path in loras[0].modules:
        paths.setdefault(tuple(lora.modules[path].scale for lora in loras), []).append(path)
    scales: dict[str, torch.Tensor] = {}
    for values, alike in paths.items():
        scales |= dict.fromkeys(alike, torch.tensor(values, device=device)[:, None, None])
    return scales
