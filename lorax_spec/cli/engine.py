"""From options to what the engine is told."""

from __future__ import annotations

import typer

from lorax_spec import embedded
from lorax_spec.config import ServeOptions, adapter_roots, adapter_sources
from lorax_spec.engine.config import EngineConfig


def engine_config(options: ServeOptions) -> EngineConfig:
    """Without a model, the embedded one.  The embedded adapters are ``demo/<name>``.

    Ends the command with a message where the options do not hold together.
    """
    try:
        return EngineConfig(
            model_id=options.model_id or str(embedded.path() / "base"),
            revision=options.revision,
            dtype=options.dtype,
            device=options.device,
            quantize=options.quantize,
            kernels=options.kernels,
            eager=options.eager,
            deterministic=options.deterministic,
            speculative_tokens=options.speculative_tokens,
            lookup_min_match=options.lookup_min_match,
            lookup_max_match=options.lookup_max_match,
            lookup_pool_tokens=options.lookup_pool_tokens,
            draft_model_id=options.draft_model_id,
            draft_model_revision=options.draft_model_revision,
            max_input_length=options.max_input_length,
            max_total_tokens=options.max_total_tokens,
            max_batch_total_tokens=options.max_batch_total_tokens,
            max_batch_prefill_tokens=options.max_batch_prefill_tokens,
            max_active_adapters=options.max_active_adapters,
            adapter_memory_fraction=options.adapter_memory_fraction,
            adapter_host_bytes=options.adapter_host_bytes,
            adapter_cycle_time_s=options.adapter_cycle_time_s,
            adapter_sources=adapter_sources(options.adapter_source),
            adapter_urls=options.adapter_url,
            adapter_cache_dir=options.adapter_cache_dir,
            adapter_cache_bytes=options.adapter_cache_bytes,
            adapter_refresh_s=options.adapter_refresh_s,
            adapter_roots={
                "demo": embedded.path() / "adapters",
                **adapter_roots(options.adapter_root),
            },
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
