"""What no engine could run with is refused before a model is read."""

from __future__ import annotations

from typing import Any

import pytest

from lorax_spec.engine.config import EngineConfig


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_batch_prefill_tokens": 0}, "max_batch_prefill_tokens must be at least 1, not 0"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"max_active_adapters": -1}, "max_active_adapters"),
        ({"max_batch_total_tokens": 0}, "max_batch_total_tokens"),
        ({"max_total_tokens": 1}, "max_total_tokens must be at least 2"),
        ({"max_input_length": 0}, "max_input_length"),
        ({"max_input_length": 8, "max_total_tokens": 8}, r"max_input_length must be below .*8"),
        ({"threads": 0}, "threads"),
        ({"speculative_tokens": -1}, "speculative_tokens"),
        ({"lookup_min_match": 0}, "lookup_min_match"),
        ({"lookup_min_match": 3, "lookup_max_match": 2}, r"at least lookup_min_match \(3\), not 2"),
        ({"lookup_pool_tokens": -1}, "lookup_pool_tokens"),
        ({"adapter_cycle_time_s": -0.1}, "adapter_cycle_time_s must be at least 0, not -0.1"),
        ({"adapter_cycle_time_s": float("nan")}, "adapter_cycle_time_s"),
        ({"adapter_host_bytes": -1}, "adapter_host_bytes"),
        ({"adapter_memory_fraction": 0.0}, "adapter_memory_fraction"),
        ({"adapter_memory_fraction": 1.1}, "adapter_memory_fraction"),
        ({"adapter_memory_fraction": float("nan")}, "adapter_memory_fraction"),
        ({"draft_model_revision": "main"}, "draft_model_id"),
    ],
)
def test_what_cannot_work_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        EngineConfig("model", **options)


def test_edges_pass() -> None:
    EngineConfig(
        "model",
        threads=1,
        lookup_min_match=4,
        lookup_max_match=4,
        max_input_length=1,
        max_total_tokens=2,
        max_batch_total_tokens=1,
        max_batch_prefill_tokens=1,
        max_batch_size=1,
        max_active_adapters=1,
        adapter_cycle_time_s=0.0,
        adapter_host_bytes=0,
        adapter_memory_fraction=1.0,
    )
