"""An adapter in memory: views into one slab."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch

from lorax_spec.adapters.calibration import HeadCalibration
from lorax_spec.adapters.choices import Choices
from lorax_spec.adapters.slab import Slab
from lorax_spec.types import AdapterChat

Kind = Literal["lora", "medusa", "hydra", "lora+medusa", "lora+hydra"]

LORA_A, LORA_B = ".lora_A", ".lora_B"
#: What slabs call the output and input embeddings, whatever the model calls them.
OUTPUT, INPUT = "<output>", "<input>"
LORA_WEIGHT, LORA_FACTOR, LORA_BIAS = ".lora_weight", ".lora_factor", ".lora_bias"
HEAD_WEIGHT, HEAD_BIAS, HEAD_LM_HEAD = "medusa.weight", "medusa.bias", "medusa.lm_head"


@dataclass(frozen=True)
class LoraModule:
    """A low-rank update of a linear layer, ``y += scale * B (A x)``: ``a`` [rank, in], ``b`` [out,
    rank].

    Of the input embeddings, where x is a token's one-hot vector, ``in`` is the vocabulary.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True)
class LayerChange:
    """What else happens to a layer, before the low-rank update is added; None for nothing.

    ``weight`` [out, in] (of embeddings [vocabulary, hidden]) stands in for the layer's own; then
    ``y = factor * y + bias``, both [out].
    """

    weight: torch.Tensor | None = None
    factor: torch.Tensor | None = None
    bias: torch.Tensor | None = None


@dataclass(frozen=True)
class LoraWeights:
    """Updates and changes by module path.  A plain LoRA has no ``changes``."""

    modules: Mapping[str, LoraModule]
    changes: Mapping[str, LayerChange] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The largest of the ranks, which may differ between modules; 0 without any."""
        return max((module.rank for module in self.modules.values()), default=0)

    @cached_property
    def scale(self) -> float | None:
        """That of all modules; None where they differ."""
        scales = {module.scale for module in self.modules.values()}
        return scales.pop() if len(scales) == 1 else None

    @cached_property
    def changes_output(self) -> bool:
        """Whether it has logits of its own, not only hidden states."""
        return OUTPUT in self.modules or OUTPUT in self.changes

    @cached_property
    def layout(self) -> frozenset[tuple[object, ...]]:
        """What it does to which layer, at which rank: equal layouts go through the same calls."""
        updates = [(path, module.rank) for path, module in self.modules.items()]
        changes = [
            (path, part.weight is None, part.factor is None, part.bias is None)
            for path, part in self.changes.items()
        ]
        return frozenset([*updates, *changes])


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
    contents as served: equal fingerprints, equal outputs and equal drafts for equal prompts.  All
    tensors are views of ``slab``, which has ``nbytes`` bytes.
    """

    kind: Kind
    fingerprint: str
    lora: LoraWeights | None
    medusa: MedusaHeads | None
    hydra: HydraHeads | None
    nbytes: int
    slab: Slab = field(repr=False)
    chat: AdapterChat = field(default=AdapterChat(), repr=False)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> AdapterWeights:
        """The same adapter on ``device``, in one copy; itself where it lies there already."""
        slab = self.slab.to(device, non_blocking=non_blocking)
        if slab is self.slab:
            return self
        heads = self.heads
        modules = self.lora.modules if self.lora else {}
        moved = _views(
            slab,
            {path: module.scale for path, module in modules.items()},
            heads.calibration if heads else None,
            heads.choices if heads else None,
            self.fingerprint,
        )
        return replace(moved, chat=self.chat)

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
    scales: Mapping[str, float],
    calibration: HeadCalibration | None = None,
    choices: Choices | None = None,
) -> AdapterWeights:
    """Name the pieces of a host slab.

    Its pieces are ``<path>.lora_A`` and ``<path>.lora_B`` for every path in ``scales``, whose
    factors those are, any of ``<path>.lora_weight``, ``.lora_factor`` and ``.lora_bias``, and
    ``medusa.weight``, ``medusa.bias`` and, for v1, ``medusa.lm_head``, or ``hydra.{k}.in.weight``,
    ``.in.bias``, ``.out.weight`` and ``.out.bias`` for every head; ``calibration`` and ``choices``
    are the heads'.
    """
    fingerprint = _fingerprint(slab, scales, calibration, choices)
    return _views(slab, scales, calibration, choices, fingerprint)


def _views(
    slab: Slab,
    scales: Mapping[str, float],
    calibration: HeadCalibration | None,
    choices: Choices | None,
    fingerprint: str,
) -> AdapterWeights:
    lora = _lora(slab, scales)
    medusa = _medusa(slab, calibration, choices)
    hydra = _hydra(slab, calibration, choices)
    kind = kind_of(lora is not None, medusa is not None, hydra is not None)
    return AdapterWeights(kind, fingerprint, lora, medusa, hydra, slab.nbytes, slab)


def _lora(slab: Slab, scales: Mapping[str, float]) -> LoraWeights | None:
    modules = {
        path: LoraModule(slab[path + LORA_A], slab[path + LORA_B], scale)
        for path, scale in scales.items()
    }
    ends = (LORA_WEIGHT, LORA_FACTOR, LORA_BIAS)
    changed = dict.fromkeys(name.rpartition(".")[0] for name in slab.pieces if name.endswith(ends))
    changes = {
        path: LayerChange(
            *(slab[path + end] if path + end in slab.pieces else None for end in ends)
        )
        for path in changed
    }
    return LoraWeights(modules, changes) if modules or changes else None


def _medusa(
    slab: Slab, calibration: HeadCalibration | None, choices: Choices | None
) -> MedusaHeads | None:
    if HEAD_WEIGHT not in slab.pieces:
        return None
    weight = slab[HEAD_WEIGHT]
    lm_head = slab[HEAD_LM_HEAD] if HEAD_LM_HEAD in slab.pieces else None
    heads, layers = weight.shape[:2]
    if lm_head is not None and lm_head.shape[0] != heads:  # one that all share
        lm_head = lm_head.expand(heads, -1, -1)
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
    slab: Slab,
    scales: Mapping[str, float],
    calibration: HeadCalibration | None,
    choices: Choices | None,
) -> str:
    names = [(name, piece.offset, piece.shape) for name, piece in slab.pieces.items()]
    described = (names, sorted(scales.items()), str(slab.data.dtype), calibration, choices)
    digest = hashlib.sha256(repr(described).encode())
    digest.update(slab.data.view(torch.uint8).numpy().data)
    return digest.hexdigest()
