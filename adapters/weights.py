"""An adapter in memory: views into one slab."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from lorax_spec.adapters.calibration import HeadCalibration
from lorax_spec.adapters.choices import Choices
from lorax_spec.adapters.slab import Slab

Kind = Literal["lora", "medusa", "hydra", "lora+medusa", "lora+hydra"]

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
    base model's lm head serves.  ``choices``: the static tree to draft, None where there is none.
    """

    num_heads: int
    num_layers: int
    weight: torch.Tensor
    bias: torch.Tensor
    lm_head: torch.Tensor | None
    calibration: HeadCalibration | None = None
    choices: Choices | None = None


@dataclass(frozen=True)
class HydraHeads:
    """K heads over hidden states of H and the embeddings of the tokens before the guess.

    Of head ``k``: ``input_weight`` [I, (k + 2) * H], ``input_bias`` [I], ``output_weight`` [H, I],
    ``output_bias`` [H]; the base model's lm head serves.  ``choices``: as in MedusaHeads.
    """

    num_heads: int
    inner_size: int
    input_weight: tuple[torch.Tensor, ...]
    input_bias: tuple[torch.Tensor, ...]
    output_weight: tuple[torch.Tensor, ...]
    output_bias: tuple[torch.Tensor, ...]
    calibration: HeadCalibration | None = None
    choices: Choices | None = None


@dataclass(frozen=True)
class AdapterWeights:
    """What a request runs on.

    At most one of ``medusa`` and ``hydra`` is there.  ``fingerprint`` is the SHA-256 of the
    contents as served: equal fingerprints, equal outputs and equal drafts.  All tensors are views
    of ``slab``, which has ``nbytes`` bytes.
    """

    kind: Kind
    fingerprint: str
    lora: LoraWeights | None
    medusa: MedusaHeads | None
    hydra: HydraHeads | None
    nbytes: int
    slab: Slab = field(repr=False)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> AdapterWeights:
        """The same adapter on ``device``, in one copy; itself where it lies there already."""
        slab = self.slab.to(device, non_blocking=non_blocking)
        if slab is self.slab:
            return self
        heads = self.heads
        return _views(
            slab,
            self.lora.scale if self.lora else 0.0,
            heads.calibration if heads else None,
            heads.choices if heads else None,
            self.fingerprint,
        )

    @property
    def heads(self) -> MedusaHeads | HydraHeads | None:
        return self.medusa or self.hydra


def kind_of(lora: bool, medusa: bool, hydra: bool) -> Kind:
    """What an adapter of these parts is; it has one at least, and one kind of heads at most."""
    if medusa:
        return "lora+medusa" if lora else "medusa"
    if hydra:
        return "lora+hydra" if lora else "hydra"
    return "lora"


def hydra_piece(head: int, part: str) -> str:
    """What a tensor of Hydra heads is named, in files and slabs alike."""
    return f"hydra.{head}.{part}"


def assemble(
    slab: Slab,
    scale: float,
    calibration: HeadCalibration | None = None,
    choices: Choices | None = None,
) -> AdapterWeights:
    """Name the pieces of a host slab.

    Its pieces are ``<path>.lora_A`` and ``<path>.lora_B`` for every module path, and
    ``medusa.weight``, ``medusa.bias`` and, for v1, ``medusa.lm_head``, or ``hydra.{k}.in.weight``,
    ``.in.bias``, ``.out.weight`` and ``.out.bias`` for every head; ``scale`` is the LoRA's,
    ``calibration`` and ``choices`` are the heads'.
    """
    fingerprint = _fingerprint(slab, scale, calibration, choices)
    return _views(slab, scale, calibration, choices, fingerprint)


def _views(
    slab: Slab,
    scale: float,
    calibration: HeadCalibration | None,
    choices: Choices | None,
    fingerprint: str,
) -> AdapterWeights:
    lora = _lora(slab, scale)
    medusa = _medusa(slab, calibration, choices)
    hydra = _hydra(slab, calibration, choices)
    kind = kind_of(lora is not None, medusa is not None, hydra is not None)
    return AdapterWeights(kind, fingerprint, lora, medusa, hydra, slab.nbytes, slab)


def _lora(slab: Slab, scale: float) -> LoraWeights | None:
    paths = [name.removesuffix(LORA_A) for name in slab.pieces if name.endswith(LORA_A)]
    if not paths:
        return None
    modules = {path: (slab[path + LORA_A], slab[path + LORA_B]) for path in paths}
    rank = modules[paths[0]][0].shape[0]
    return LoraWeights(rank, scale, modules)


def _medusa(
    slab: Slab, calibration: HeadCalibration | None, choices: Choices | None
) -> MedusaHeads | None:
    if HEAD_WEIGHT not in slab.pieces:
        return None
    weight = slab[HEAD_WEIGHT]
    lm_head = slab[HEAD_LM_HEAD] if HEAD_LM_HEAD in slab.pieces else None
    heads, layers = weight.shape[:2]
    return MedusaHeads(heads, layers, weight, slab[HEAD_BIAS], lm_head, calibration, choices)


def _hydra(
    slab: Slab, calibration: HeadCalibration | None, choices: Choices | None
) -> HydraHeads | None:
    count = 0
    while hydra_piece(count, "in.weight") in slab.pieces:
        count += 1
    if count == 0:
        return None
    input_weight, input_bias, output_weight, output_bias = (
        tuple(slab[hydra_piece(head, part)] for head in range(count))
        for part in ("in.weight", "in.bias", "out.weight", "out.bias")
    )
    return HydraHeads(
        count,
        input_weight[0].shape[0],
        input_weight,
        input_bias,
        output_weight,
        output_bias,
        calibration,
        choices,
    )


def _fingerprint(
    slab: Slab, scale: float, calibration: HeadCalibration | None, choices: Choices | None
) -> str:
    names = [(name, piece.offset, piece.shape) for name, piece in slab.pieces.items()]
    described = (names, scale, str(slab.data.dtype), calibration, choices)
    digest = hashlib.sha256(repr(described).encode())
    digest.update(slab.data.view(torch.uint8).numpy().data)
    return digest.hexdigest()
