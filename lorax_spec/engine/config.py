"""What an engine is told before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class EngineConfig:
    """Sizes are in tokens unless they say bytes; None means: chosen from the machine and model."""

    #: A folder, or an id on the Hugging Face hub.
    model_id: str
    revision: str | None = None
    #: "auto", "float32", "bfloat16" or "float16".
    dtype: str = "auto"
    #: "auto", "cpu", "cuda" or "cuda:N".
    device: str = "auto"
    #: Same bits whatever else is in the batch; None: where it is nearly free.
    deterministic: bool | None = None
    #: Of torch's pool on a CPU.  None: OMP_NUM_THREADS where it is set; else one for a small model,
    #: whose products are too short to share, and one per physical core for a large one.
    threads: int | None = None
    #: Most tokens that prompt lookup and the draft model guess ahead where a request gives no
    #: number; 0: only requests that ask for them use them.  Heads draft whenever a request has them.
    speculative_tokens: int = 0
    #: Shortest and longest suffix that prompt lookup matches.
    lookup_min_match: int = 1
    lookup_max_match: int = 16
    #: Tokens of finished requests that prompt lookup remembers per adapter; 0: none.
    lookup_pool_tokens: int = 0
    #: A smaller model with the same tokenizer that drafts: a folder or a hub id.
    draft_model_id: str | None = None
    draft_model_revision: str | None = None
    max_input_length: int | None = None
    max_total_tokens: int | None = None
    #: Room in the KV cache.
    max_batch_total_tokens: int | None = None
    #: Prompt tokens computed in one step, so that long prompts do not stall the others.
    max_batch_prefill_tokens: int = 512
    #: Sequences in one step.
    max_batch_size: int = 256
    max_active_adapters: int = 1024
    #: Of the device's memory (on a CPU: of the memory free at start).
    adapter_memory_fraction: float = 0.1
    #: Where adapters lie: id prefix -> folder; the prefix "" maps ids as they are.
    adapter_roots: Mapping[str, Path] = field(default_factory=dict)
