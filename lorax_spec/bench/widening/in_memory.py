"""A wide model that is made where it runs, without a file: billions of parameters in seconds."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lorax_spec.bench.widening import base
from lorax_spec.bench.widening.axes import Axes, axes
from lorax_spec.bench.widening.folder import read_tensors
from lorax_spec.bench.widening.shape import Shape, Variant, require_exact, shape_of
from lorax_spec.bench.widening.weights import Widener
from lorax_spec.bench.widening.widen import wide_config, write_adapter


@dataclass(frozen=True)
class Widening:
    """From the small model of a folder to a wide one, and its adapters with it."""

    source: Path
    config: Any
    small: Shape
    wide: Shape
    spaces: Axes
    widener: Widener

    @classmethod
    def of(
        cls,
        source: Path,
        wide: Shape,
        variant: Variant = Variant.ZERO,
        dtype: torch.dtype = torch.bfloat16,
        device: str = "cpu",
        seed: int = 0,
    ) -> Widening:
        """Computed and kept on ``device``.  Raises InvalidArgument where no widening is exact."""
        config = AutoConfig.from_pretrained(source)
        small = shape_of(config)
        require_exact(small, wide, variant)
        with torch.device(device):
            spaces = axes(small, wide, variant)
        config.update(wide_config(config.rms_norm_eps, wide, spaces, dtype))
        generator = torch.Generator(device).manual_seed(seed)
        return cls(source, config, small, wide, spaces, Widener(generator, dtype, device))

    @torch.inference_mode(False)
    def model(self) -> PreTrainedModel:
        """A new one, as transformers has it.  Beside it, memory holds one wide layer."""
        # An engine changes what it is given, its config too.
        config = deepcopy(self.config)
        device, dtype = self.widener.kept, self.widener.dtype
        with torch.device(device):
            made: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
        state = made.state_dict()
        tied = bool(self.config.tie_word_embeddings)
        tensors = read_tensors(self.source)
        for part in base.parts(tensors, self.small, self.wide, self.spaces, self.widener, tied):
            for name, tensor in part.items():
                state[name].copy_(tensor)
        return made.requires_grad_(False).eval()

    def adapter(self, source: Path, target: Path) -> None:
        """Widen the adapter of a folder into another, which is new."""
        to_files = replace(self.widener, kept="cpu")
        write_adapter(source, target, self.small, self.wide, self.spaces, to_files)
