"""An adapter in memory: views into one slab."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from lorax_spec.adapters.slab import Slab

Kind = Literal["lora", "medusa", "lora+medusa"]

LORA_A, LORA_B = ".lora_A", ".lora_B"
HEAD_WEIGHT, HEAD_BIAS, HEAD_LM_HEAD = "medusa.weight", "medusa.bias", "medusa.lm_head"


@dataclass(frozen=True)
class LoraWeights:
    """``modules`` maps a module path to A [rank, in] and B [out, rank]: y += scale * B (A x)."""

    rank: int
    scale: float
    modules: Mapping[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class MedusaHeads:
    """K heads of L residual blocks over hidden states of H.

    ``weight`` [K, L, H, H], ``bias`` [K, L, H]; ``lm_head`` [K, V, H] in v1, None in v2, where the
    base model's lm head serves.
    """

    num_heads: int
    num_layers: int
    weight: torch.Tensor
    bias: torch.Tensor
    lm_head: torch.Tensor | None


@dataclass(frozen=True)
class AdapterWeights:
    """What a request runs on.

    ``fingerprint`` is the SHA-256 of the contents as served: equal fingerprints, equal outputs.
    All tensors are views of ``slab``, which has ``nbytes`` bytes.
    """

    kind: Kind
    fingerprint: str
    lora: LoraWeights | None
    medusa: MedusaHeads | None
    nbytes: int
    slab: Slab = field(repr=False)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> AdapterWeights:
        """The same adapter on ``device``, in one copy; itself where it lies there already."""
        slab = self.slab.to(device, non_blocking=non_blocking)
        if slab is self.slab:
            return self
        return _views(slab, self.lora.scale if self.lora else 0.0, self.fingerprint)


def assemble(slab: Slab, scale: float) -> AdapterWeights:
    """Name the pieces of a host slab.

    Its pieces are ``<path>.lora_A`` and ``<path>.lora_B`` for every module path, and
    ``medusa.weight``, ``medusa.bias`` and, for v1, ``medusa.lm_head``; ``scale`` is the LoRA's.
    """
    return _views(slab, scale, _fingerprint(slab, scale))


def _views(slab: Slab, scale: float, fingerprint: str) -> AdapterWeights:
    lora = _lora(slab, scale)
    medusa = _medusa(slab)
    kind: Kind = "medusa" if lora is None else "lora" if medusa is None else "lora+medusa"
    return AdapterWeights(kind, fingerprint, lora, medusa, slab.nbytes, slab)


def _lora(slab: Slab, scale: float) -> LoraWeights | None:
    paths = [name.removesuffix(LORA_A) for name in slab.pieces if name.endswith(LORA_A)]
    if not paths:
        return None
    modules = {path: (slab[path + LORA_A], slab[path + LORA_B]) for path in paths}
    rank = modules[paths[0]][0].shape[0]
    return LoraWeights(rank, scale, modules)


def _medusa(slab: Slab) -> MedusaHeads | None:
    if HEAD_WEIGHT not in slab.pieces:
        return None
    weight = slab[HEAD_WEIGHT]
    lm_head = slab[HEAD_LM_HEAD] if HEAD_LM_HEAD in slab.pieces else None
    return MedusaHeads(weight.shape[0], weight.shape[1], weight, slab[HEAD_BIAS], lm_head)


def _fingerprint(slab: Slab, scale: float) -> str:
    names = [(name, piece.offset, piece.shape) for name, piece in slab.pieces.items()]
    digest = hashlib.sha256(repr((names, scale, str(slab.data.dtype))).encode())
    digest.update(slab.data.view(torch.uint8).numpy().data)
    return digest.hexdigest()
