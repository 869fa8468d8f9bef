"""What is measured: a model, its heads and, where it has one, its draft model."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lorax_spec import embedded
from lorax_spec.bench.engine_side import EngineSide
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.drafting.line_up import LineUp, line_up
from lorax_spec.engine.engine import DEMO, adapter_roots
from lorax_spec.engine.loading import load
from lorax_spec.errors import InvalidArgument
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.types import Method, Speculation

#: Names of heads made for the base model alone, those that accept more first.
_HEADS = ("hydra", "medusa")
#: What the server drafts for requests that do not say.
_AHEAD = 24


@dataclass(frozen=True)
class Opened:
    """A running engine; ``heads`` are the ids of its heads by kind, the better ones first."""

    core: EngineCore
    tokenizer: TextTokenizer
    heads: Mapping[str, str]
    drafts: bool

    def side(
        self, drafter: str, num_tokens: int | None = None, temperature: float = 0.0
    ) -> EngineSide:
        """One that drafts as ``drafter`` says: off, auto, medusa, hydra, or another method.

        ``auto`` has the best heads at hand.  Raises InvalidArgument for what the subject lacks.
        """
        return EngineSide(self.core, self.speculation(drafter, num_tokens), temperature=temperature)

    def speculation(self, drafter: str, num_tokens: int | None = None) -> Speculation:
        if drafter == "off":
            return Speculation(Method.NONE)
        if drafter not in self.drafters:
            raise InvalidArgument(f"no {drafter} here; there are {', '.join(self.drafters)}")
        if drafter in _HEADS:
            return Speculation(Method.MEDUSA, num_tokens, self.heads[drafter])
        heads = next(iter(self.heads.values()), None) if drafter == Method.AUTO else None
        return Speculation(Method(drafter), num_tokens, heads)

    @property
    def drafters(self) -> tuple[str, ...]:
        """What it can draft with, ``auto`` last."""
        model = (Method.DRAFT_MODEL.value,) if self.drafts else ()
        own = (Method.PROMPT_LOOKUP.value, *self.heads, *model, Method.LOOKAHEAD.value)
        return (*own, Method.AUTO.value)


@dataclass(frozen=True)
class Subject:
    """The embedded model, or a folder such as ``lorax-spec bench widen`` makes."""

    model_id: Path | None = None
    adapter_root: Path | None = None
    dtype: str = "float32"
    draft_model: bool = False

    @contextmanager
    def open(self, line_up: LineUp = line_up) -> Iterator[Opened]:
        """Load it, on one thread."""
        base = self.model_id or embedded.path() / "base"
        config = EngineConfig(
            str(base),
            dtype=self.dtype,
            threads=1,
            speculative_tokens=_AHEAD,
            draft_model_id=str(embedded.draft_path()) if self.draft_model else None,
            adapter_roots=adapter_roots(self.adapter_root),
        )
        core = EngineCore(load(config), line_up)
        # As a worker does: collections would otherwise fall upon one side or the other.
        gc.collect()
        gc.freeze()
        try:
            tokenizer = TextTokenizer.load(core.info.model_path)
            yield Opened(core, tokenizer, self.heads(), self.draft_model)
        finally:
            gc.unfreeze()
            core.close()

    def heads(self) -> dict[str, str]:
        """Adapter ids by kind: the embedded ones for the embedded model, else those of the root."""
        if self.model_id is None:
            folder, prefix = embedded.path() / "adapters", f"{DEMO}/"
        elif self.adapter_root is not None:
            folder, prefix = self.adapter_root, ""
        else:
            return {}
        return {kind: prefix + kind for kind in _HEADS if (folder / kind).is_dir()}


#: The embedded model, in float32.
EMBEDDED = Subject()
