"""Rows of a batch by the adapters they run on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from lorax_spec.adapters.weights import LoraWeights

#: Rows a tile holds at most; beyond NARROW, prompt chunks fill tiles of WIDE rows.
NARROW, WIDE = 8, 32
#: For exact results, attention's products have at least so many rows, and those of LoRA, whose
#: ranks make them oddly shaped, exactly so many: then no kernel is chosen by the company.
EXACT_ROWS = 8


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


def lay_lanes(
    adapters: Iterable[tuple[LoraWeights, list[int]]], exact: bool, device: torch.device
) -> Iterator[Lanes]:
    """Lanes of adapters and the rows that run on each; ``exact`` as in ``build_batch``."""
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
