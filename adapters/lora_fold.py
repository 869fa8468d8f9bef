"""Updates as slabs hold them: read as they are stored, or folded from several tensors and the base
model's own.

Of one layer with the base model's weight W and bias b, a file may have A, B and a bias c of B,
a magnitude m (DoRA, Liu et al. 2024, arXiv 2402.09353) and a trained bias b'.  It computes::

    f = m / ||W + s B A||  (row by row; 1 without a magnitude)
    y = f * (W x + s B A x) + s c + b'

which is the base model's own output y0 = W x + b taken further: ``f * y0 + s (f B) A x`` and a bias
of ``s c + b' - f b``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from lorax_spec.adapters.lora_fit import Share, Update
from lorax_spec.adapters.lora_tensors import Named, rows_of
from lorax_spec.adapters.slab import Slab, layout
from lorax_spec.adapters.tensor_file import StoredTensor, read_tensors
from lorax_spec.adapters.weights import (
    INPUT,
    LORA_A,
    LORA_B,
    LORA_BIAS,
    LORA_FACTOR,
    LORA_WEIGHT,
)
from lorax_spec.errors import AdapterMismatch

#: Elements of a weight that are worked on at a time.
_BLOCK = 2**18

Parameters = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """``shapes`` of an adapter's pieces, of which ``stored`` are read as they are; ``folded``
    updates make the others, and ``scales`` are of those with a low rank.  ``claimed`` are weights
    that must be the base model's own."""

    shapes: Mapping[str, tuple[int, ...]]
    stored: Mapping[str, StoredTensor]
    folded: tuple[Update, ...]
    scales: Mapping[str, float]
    claimed: tuple[tuple[Update, Share], ...]


EMPTY = Plan({}, {}, (), {}, ())


def plan(updates: list[Update], parameters: Parameters) -> Plan:
    """Of faultless updates."""
    shapes: dict[str, tuple[int, ...]] = {}
    stored: dict[str, StoredTensor] = {}
    folded: list[Update] = []
    scales: dict[str, float] = {}
    claimed: list[tuple[Update, Share]] = []
    for update in updates:
        claimed += ((update, share) for share in update.shares if share.parts.base_weight)
        low_rank = [share for share in update.shares if share.parts.low_rank]
        plain = _is_plain(update)
        if plain:
            for end, tensor in _stored(update):
                stored[update.name + end] = tensor
                shapes[update.name + end] = tensor.shape
        else:
            folded.append(update)
            shapes |= _shapes(update, parameters)
        if low_rank:
            scales[update.name] = low_rank[0].scale if plain else 1.0
    return Plan(shapes, stored, tuple(folded), scales, tuple(claimed))


def fold(made: Plan, slab: Slab, parameters: Parameters) -> None:
    """Fill the pieces of the folded updates.

    Raises AdapterMismatch where the files end too early, or a claimed weight is another than the
    base model's.
    """
    for update, share in made.claimed:
        _require_own(update, share, parameters)
    for update in made.folded:
        _fold(update, slab, parameters)


def _is_plain(update: Update) -> bool:
    share = update.whole
    if share is None:
        return False
    parts = share.parts
    turned = update.turned and parts.weight is not None
    return not (turned or parts.magnitude or parts.bias or parts.b_bias)


def _stored(update: Update) -> Iterator[tuple[str, StoredTensor]]:
    share = update.whole
    assert share is not None
    parts = share.parts
    if parts.weight is not None:
        yield LORA_WEIGHT, _part(update, parts.weight, share.source)
    if parts.low_rank is not None:
        a, b = parts.low_rank
        assert a is not None and b is not None
        yield LORA_A, a.stored
        yield LORA_B, _part(update, b, share.source)


def _part(update: Update, named: Named, rows: range) -> StoredTensor:
    # A new input embedding's rows are tokens, of which it has all.
    whole = update.name == INPUT or len(rows) == named.shape[0]
    return named.stored if whole else rows_of(named.stored, rows)


def _shapes(update: Update, parameters: Parameters) -> dict[str, tuple[int, ...]]:
    shares, out_features = update.shares, update.out_features
    shapes: dict[str, tuple[int, ...]] = {}
    if any(share.parts.weight for share in shares):
        shapes[update.name + LORA_WEIGHT] = (out_features, update.in_features)
    if rank := sum(share.rank for share in shares if share.parts.low_rank):
        shapes[update.name + LORA_A] = (rank, update.in_features)
        shapes[update.name + LORA_B] = (out_features, rank)
    scaled = any(share.parts.magnitude for share in shares)
    if scaled:
        shapes[update.name + LORA_FACTOR] = (out_features,)
    moved = any(share.parts.bias or share.parts.b_bias for share in shares)
    if moved or (scaled and f"{update.path}.bias" in parameters):
        shapes[update.name + LORA_BIAS] = (out_features,)
    return shapes


def _fold(update: Update, slab: Slab, parameters: Parameters) -> None:
    a, b, factor, bias, weight = (
        slab[update.name + end] if update.name + end in slab.pieces else None
        for end in (LORA_A, LORA_B, LORA_FACTOR, LORA_BIAS, LORA_WEIGHT)
    )
    if factor is not None:
        factor.fill_(1)
    if weight is not None:
        weight.copy_(_parameter(update.path, "weight", parameters))
    first = 0
    for share in update.shares:
        parts, target = share.parts, slice(share.target.start, share.target.stop)
        own_factor: torch.Tensor | None = None
        if parts.low_rank is not None:
            assert a is not None and b is not None
            own_a, own_b = (_read(named) for named in parts.low_rank)
            own_b = share.scale * own_b[share.source.start : share.source.stop]
            if parts.magnitude is not None:
                own_weight = _parameter(update.path, "weight", parameters)[target]
                own_factor = _rows(parts.magnitude, share) / _norms(own_weight, own_a, own_b)
                own_b = own_b * own_factor[:, None]
            a[first : first + share.rank] = own_a
            b[target, first : first + share.rank] = own_b
            first += share.rank
        if parts.weight is not None and weight is not None:
            whole = _read(parts.weight)
            whole = whole.T if update.turned else whole
            weight[target] = whole[share.source.start : share.source.stop]
        if own_factor is not None and factor is not None:
            factor[target] = own_factor
        if bias is not None:
            bias[target] = _bias(update.path, share, own_factor, parameters)


def _bias(
    path: str, share: Share, factor: torch.Tensor | None, parameters: Parameters
) -> torch.Tensor:
    """``s c + b' - f b`` float32 [the share's rows]."""
    parts = share.parts
    added = torch.zeros(len(share.source))
    if parts.b_bias is not None:
        added += share.scale * _rows(parts.b_bias, share)
    if parts.bias is not None or factor is not None:
        if (own := parameters.get(f"{path}.bias")) is not None:
            base = own[share.target.start : share.target.stop].float().cpu()
            trained = base if parts.bias is None else _rows(parts.bias, share)
            added += trained - (base if factor is None else factor * base)
        elif parts.bias is not None:
            raise AdapterMismatch(f"{parts.bias.name}: the base model's own bias is not known")
    return added


def _norms(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``||W + B A||`` of every row, float32, in blocks."""
    step = max(1, _BLOCK // weight.shape[1])
    return torch.cat(
        [
            torch.linalg.vector_norm(
                weight[i : i + step].float().cpu() + b[i : i + step] @ a, dim=1
            )
            for i in range(0, len(weight), step)
        ]
    )


def _require_own(update: Update, share: Share, parameters: Parameters) -> None:
    named = share.parts.base_weight
    assert named is not None
    own = _parameter(update.path, "weight", parameters)
    read = _read(named)
    step = max(1, _BLOCK // read.shape[1])
    for i in range(0, len(read), step):
        theirs, ours = read[i : i + step], own[i : i + step].float().cpu()
        if not torch.equal(theirs.to(own.dtype).float(), ours) and not torch.equal(
            ours.to(named.stored.dtype).float(), theirs
        ):
            raise AdapterMismatch(
                f"{named.name} is another than this model's own weight: it was trained on a "
                "changed base model"
            )


def _rows(named: Named, share: Share) -> torch.Tensor:
    return _read(named)[share.source.start : share.source.stop]


def _read(named: Named | None) -> torch.Tensor:
    """A stored tensor in float32."""
    assert named is not None
    pieces, numel = layout({named.name: named.shape})
    slab = Slab(torch.empty(numel), pieces)
    read_tensors({named.name: (named.stored, 0)}, slab.data)
    return slab[named.name]


def _parameter(path: str, kind: str, parameters: Parameters) -> torch.Tensor:
    name = f"{path}.{kind}"
    own = parameters.get(name)
    if own is None or own.is_meta:
        raise AdapterMismatch(
            f"the base model's {name}, which this adapter builds on, is not known"
        )
    return own
