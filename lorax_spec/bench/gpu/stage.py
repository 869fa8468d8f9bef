"""What the parts share: sizes, ceilings, and the wide model in an engine, made when first asked
for and anew after a part that failed."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedModel

from lorax_spec import embedded
from lorax_spec.bench.engine_side import EngineSide
from lorax_spec.bench.gpu import adapter_files, ceilings
from lorax_spec.bench.gpu.fixed_drafter import line_up
from lorax_spec.bench.gpu.floors import Ceilings, Cost
from lorax_spec.bench.gpu.share import Share
from lorax_spec.bench.gpu.sizes import DRY, REAL, Sizes, Target
from lorax_spec.bench.gpu.steps import Window
from lorax_spec.bench.widening.in_memory import Widening
from lorax_spec.bench.widening.shape import Variant
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.loading import load
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.types import Method, Speculation

#: Tokens of a request at most, and so of the cache's share of each.
_ROOM = 512
#: Of the device's free memory: what keys and values may take, and adapters.
_CACHE_SHARE, _ADAPTER_SHARE = 0.4, 0.25
#: Sides of a comparison whose prompts lie in the cache beside each other.
_CACHED_SIDES = 4


@dataclass
class Stage:
    """``share`` is that of the part that runs; adapters are written to ``folder``, which goes, and
    what people may want to read to ``logs``."""

    target: Target
    variant: Variant
    dry: bool
    folder: Path
    logs: Path
    seed: int = 0
    share: Share = field(default_factory=lambda: Share.of(0))
    _core: EngineCore | None = None

    @property
    def sizes(self) -> Sizes:
        return DRY if self.dry else REAL

    @cached_property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.dry else "cuda")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.dry else torch.bfloat16

    @cached_property
    def ceilings(self) -> Ceilings:
        return ceilings.measure(self.device, self.dtype, self.sizes)

    @cached_property
    def widening(self) -> Widening:
        base = embedded.path() / "base"
        shape, device = self.target.shape, str(self.device)
        return Widening.of(base, shape, self.variant, self.dtype, device, self.seed)

    @property
    def cost(self) -> Cost:
        config = self.widening.config
        tied = bool(config.tie_word_embeddings)
        return Cost(self.widening.wide, config.vocab_size, tied, self.dtype.itemsize)

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        return TextTokenizer.load(str(embedded.path() / "base"))

    @cached_property
    def adapters(self) -> adapter_files.AdapterFiles:
        """Written when first asked for."""
        return adapter_files.write(self.widening, self.folder / "adapters", self.sizes)

    @property
    def core(self) -> EngineCore:
        """The engine on the wide model."""
        if self._core is None:
            self._core = self._load(self.widening.model())
            gc.collect()
            gc.freeze()
        return self._core

    def discard_core(self) -> None:
        """The next part gets a new engine."""
        if self._core is not None:
            gc.unfreeze()
            core, self._core = self._core, None
            core.close()
            del core
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def window(
        self,
        speculation: Speculation | None = None,
        adapters: Sequence[str | None] = (None,),
    ) -> Window:
        """Steps of requests on ``adapters`` in turn."""
        chosen = speculation or Speculation(Method.NONE)
        sides = [EngineSide(self.core, chosen, adapter) for adapter in adapters]
        return Window(self.core, self.device, self.sizes.steps, sides)

    def _load(self, model: PreTrainedModel) -> EngineCore:
        sizes = self.sizes
        longest = sizes.context + _ROOM
        wanted = _CACHED_SIDES * sizes.batch * longest
        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0]
            wanted = min(wanted, int(free * _CACHE_SHARE / self.cost.kv_bytes_per_token))
        config = EngineConfig(
            str(embedded.path() / "base"),
            dtype=str(self.dtype).removeprefix("torch."),
            device=str(self.device),
            threads=1 if self.dry else None,
            max_total_tokens=2 * longest,
            max_batch_total_tokens=max(wanted, 2 * longest),
            max_batch_prefill_tokens=512 if self.dry else 4096,
            adapter_memory_fraction=_ADAPTER_SHARE,
            adapter_roots={"": self.adapters.root},
        )
        return EngineCore(load(config, model), line_up)
