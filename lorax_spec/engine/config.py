"""What an engine is told before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: Where a number is given, it is at least this.
_LEAST = {
    "threads": 1,
    "speculative_tokens": 0,
    "lookup_min_match": 1,
    "lookup_pool_tokens": 0,
    "max_input_length": 1,
    "max_total_tokens": 2,
    "max_batch_total_tokens": 1,
    "max_batch_prefill_tokens": 1,
    "max_batch_size": 1,
    "max_active_adapters": 1,
    "adapter_cache_bytes": 1,
    "adapter_refresh_s": 0,
    "adapter_host_bytes": 0,
    "adapter_cycle_time_s": 0,
}


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
    #: How weights are quantised when they are read, a name of engine/quantized.py; None: as they
    #: are, which may be quantised already.
    quantize: str | None = None
    #: "torch"; "triton", on a CPU in its interpreter only; "auto": triton on CUDA where installed.
    kernels: str = "auto"
    #: On CUDA: capture no graphs.
    eager: bool = False
    #: Same bits whatever else is in the batch; None: where it is nearly free.
    deterministic: bool | None = None
    #: Of torch's pool on a CPU.  None: OMP_NUM_THREADS where it is set; else one for a small model,
    #: whose products are too short to share, and one per physical core for a large one.
    threads: int | None = None
    #: Most tokens that any drafter guesses ahead where a request gives no number (0: up to 16).
    #: Above 0, "auto" uses prompt lookup and the draft model beside a request's heads.
    speculative_tokens: int = 0
    #: Shortest and longest suffix that prompt lookup matches.
    lookup_min_match: int = 1
    lookup_max_match: int = 16
    #: Tokens of finished requests that prompt lookup remembers, per adapter and credentials;
    #: 0: none.
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
    #: Bytes; None: as many as they may take on the device.
    adapter_host_bytes: int | None = None
    #: Seconds after which an adapter in use makes room for those that wait for it.
    adapter_cycle_time_s: float = 2.0
    #: Of "local", "hub" and "s3": requests may name these, and local; the first is for those that
    #: name none and mean no local folder.
    adapter_sources: tuple[str, ...] = ("local",)
    #: Below these lie the adapters of object stores.
    adapter_urls: tuple[str, ...] = ()
    #: Where downloaded adapters lie; None: in the user's cache.  It holds so many bytes at most.
    adapter_cache_dir: Path | None = None
    adapter_cache_bytes: int = 20 * 10**9
    #: Seconds after which it is asked anew what a branch holds, and whether a token may read it.
    adapter_refresh_s: float = 60.0
    #: Where adapters lie: id prefix -> folder; the prefix "" maps ids as they are.
    adapter_roots: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for what no engine could run with."""
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        if not 0 < self.adapter_memory_fraction <= 1:
            raise ValueError(
                "adapter_memory_fraction must be above 0 and at most 1, "
                f"not {self.adapter_memory_fraction}"
            )
        if self.lookup_max_match < self.lookup_min_match:
            raise ValueError(
                f"lookup_max_match must be at least lookup_min_match ({self.lookup_min_match}), "
                f"not {self.lookup_max_match}"
            )
        if self.draft_model_revision is not None and self.draft_model_id is None:
            raise ValueError("draft_model_revision needs a draft_model_id")
        if (
            self.max_input_length is not None
            and self.max_total_tokens is not None
            and self.max_input_length >= self.max_total_tokens
        ):
            raise ValueError(
                f"max_input_length must be below max_total_tokens ({self.max_total_tokens}), "
                f"not {self.max_input_length}: an answer has at least one token"
            )
