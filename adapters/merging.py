"""Several LoRAs merged into one, as peft's ``add_weighted_adapter`` merges them.

TIES: Yadav et al. 2023, arXiv 2306.01708.  DARE: Yu et al. 2023, arXiv 2311.03099.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from peft.utils.merge_utils import (
    calculate_majority_sign_mask,
    disjoint_merge,
    prune,
    task_arithmetic,
)
from torch.nn.functional import pad

from lorax_spec.adapters.slab import Slab, allocate, chunks, layout
from lorax_spec.adapters.weights import (
    LORA_A,
    LORA_B,
    AdapterWeights,
    LoraModule,
    assemble,
)
from lorax_spec.errors import AdapterMismatch

#: Gives of a tensor [rows, columns] what is kept of it, in the same shape.
_Sparsify = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class MergeRecipe:
    """How adapters become one; as many ``weights`` as adapters.

    ``method``: linear, ties, dare_linear or dare_ties.  ``density``, above 0 and at most 1, is the
    share of numbers that ties and dare keep.  ``majority_sign_method``, of ties and dare_ties:
    total or frequency.
    """

    method: str
    weights: tuple[float, ...]
    density: float
    majority_sign_method: str


def merge(parts: Sequence[AdapterWeights], recipe: MergeRecipe) -> AdapterWeights:
    """One adapter of one to many, all on the host and of one dtype, as the result is.

    As in peft, the A of a module are merged with one another, and so are its B, each weighed by
    the square root of its weight times its scale; a module's parts are the adapters that have it.
    What peft refuses, ranks that differ, is defined by peft's own terms: smaller ranks are filled
    up with zeros once they are sparse, so that the filling takes no share of ``density``.  A single
    adapter is merged linearly, whatever the method.  The sums are float32.

    dare drops numbers at random, by a seed of the recipe and the parts' fingerprints: equal parts
    and recipes give equal bits.

    Heads of a part draft for the result, where no other part has heads.

    Raises AdapterMismatch for a part without a LoRA, or that does more than low-rank updates, for
    parts of which several have heads, and for a result that is not finite.
    """
    _check(parts)
    linear = len(parts) == 1 or recipe.method == "linear"
    sparsify = (lambda tensor: tensor) if linear else _sparsify(recipe, _seed(parts, recipe))
    elect = not linear and recipe.method in ("ties", "dare_ties")
    merged: dict[str, torch.Tensor] = {}
    for path in sorted({path for part in parts if part.lora for path in part.lora.modules}):
        found = [
            (module, weight * module.scale)
            for part, weight in zip(parts, recipe.weights, strict=True)
            if part.lora and (module := part.lora.modules.get(path))
        ]
        a, b = _matrices(path, [module for module, _ in found], sparsify)
        roots = torch.tensor([math.sqrt(abs(weight)) for _, weight in found])
        signs = torch.tensor([1.0 if weight >= 0 else -1.0 for _, weight in found])
        combine = _elected(recipe.majority_sign_method) if elect else task_arithmetic
        merged[path + LORA_A] = combine(a, roots * signs)
        merged[path + LORA_B] = combine(b, roots)
    return _assembled(merged, parts)


def _check(parts: Sequence[AdapterWeights]) -> None:
    for number, part in enumerate(parts, 1):
        which = f"adapter {number} of {len(parts)} to merge"
        if part.lora is None:
            raise AdapterMismatch(f"{which} has no LoRA; heads are named by medusa_adapter_id")
        if part.lora.changes:
            path = next(iter(part.lora.changes))
            raise AdapterMismatch(f"{which} is no plain LoRA: it changes {path} in other ways too")
    if sum(part.heads is not None for part in parts) > 1:
        raise AdapterMismatch("several of the adapters to merge have heads; one at most may")


def _matrices(
    path: str, modules: Sequence[LoraModule], sparsify: _Sparsify
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Every part's A and B, sparse, as wide as the one of the largest rank."""
    if len({(module.a.shape[1], module.b.shape[0]) for module in modules}) > 1:
        raise AdapterMismatch(f"the adapters to merge have {path} in different sizes")
    rank = max(module.rank for module in modules)
    a = [pad(sparsify(one.a.float()), (0, 0, 0, rank - one.rank)) for one in modules]
    b = [pad(sparsify(one.b.float()), (0, rank - one.rank)) for one in modules]
    return a, b


def _sparsify(recipe: MergeRecipe, seed: int) -> _Sparsify:
    density = recipe.density
    if density >= 1:
        return lambda tensor: tensor
    if recipe.method == "ties":
        return lambda tensor: prune(tensor, density, method="magnitude")
    generator = torch.Generator().manual_seed(seed)

    def drop(tensor: torch.Tensor) -> torch.Tensor:
        # peft's random pruning, which draws from torch's one generator that all threads share.
        kept = torch.bernoulli(torch.full_like(tensor, density), generator=generator)
        return tensor * kept / density

    return drop


def _seed(parts: Sequence[AdapterWeights], recipe: MergeRecipe) -> int:
    described = repr((recipe, [part.fingerprint for part in parts]))
    return int.from_bytes(hashlib.sha256(described.encode()).digest()[:8])


def _elected(
    sign_method: str,
) -> Callable[[list[torch.Tensor], torch.Tensor], torch.Tensor]:
    """The mean of the weighed tensors, in every place of those that have the majority's sign."""

    def combine(tensors: list[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
        stacked = torch.stack(tensors)
        mask = calculate_majority_sign_mask(stacked, method=sign_method)
        merged: torch.Tensor = disjoint_merge(stacked * weights[:, None, None], mask)
        return merged

    return combine


def _assembled(merged: dict[str, torch.Tensor], parts: Sequence[AdapterWeights]) -> AdapterWeights:
    """The merged tensors and the heads in one slab."""
    like = parts[0].slab.data
    tensors, heads = dict(merged), None
    for part in parts:
        if part.heads is not None:
            heads = part.heads
            tensors |= _head_tensors(part.slab)
    pieces, numel = layout({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    slab = allocate(pieces, numel, like.dtype, like.is_pinned())
    for name, tensor in tensors.items():
        slab[name].copy_(tensor)
    _require_finite(slab)
    scales = {name.removesuffix(LORA_A): 1.0 for name in merged if name.endswith(LORA_A)}
    if heads is None:
        return assemble(slab, scales)
    return assemble(slab, scales, heads.calibration, heads.choices)


def _head_tensors(slab: Slab) -> dict[str, torch.Tensor]:
    return {name: slab[name] for name in slab.pieces if not name.endswith((LORA_A, LORA_B))}


def _require_finite(slab: Slab) -> None:
    if not all(bool(chunk.isfinite().all()) for chunk in chunks(slab.data)):
        dtype = str(slab.data.dtype).removeprefix("torch.")
        raise AdapterMismatch(
            f"the merged adapter is not finite in {dtype}: smaller weights may be"
        )
