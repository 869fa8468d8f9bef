"""What a server tells about its adapters."""

from __future__ import annotations

from lorax_spec.adapters.folder import read_configs
from lorax_spec.adapters.inspect import number
from lorax_spec.adapters.source import Location
from lorax_spec.adapters.version import Version
from lorax_spec.errors import AdapterMismatch
from lorax_spec.types import AdapterInfo, AdapterRef

#: Enough of a scope to tell it from others, and too little to find its token by.
_TOLD = 8


def on_disk(location: Location) -> AdapterInfo:
    """An adapter that nobody has asked for, by its configs alone."""
    kind, rank, heads, error = "", 0, 0, ""
    try:
        configs = read_configs(location.folder)
    except AdapterMismatch as fault:
        error = fault.message
    else:
        kind = configs.kind
        rank = number((configs.lora or {}).get("r"))
        heads = number(configs.num_heads)
    return AdapterInfo(
        adapter_id=location.adapter_id,
        kind=kind,
        state="absent",
        tier="disk",
        bytes=location.nbytes,
        pinned=False,
        source=location.source,
        revision=location.revision,
        error=error,
        rank=rank,
        medusa_heads=heads,
    )


def unknown(ref: AdapterRef) -> AdapterInfo:
    """An adapter that is being looked up."""
    return AdapterInfo(
        adapter_id=ref.adapter_id,
        kind="",
        state="fetching",
        tier="disk",
        bytes=0,
        pinned=False,
        source=ref.source,
        revision=ref.revision,
    )


def in_memory(version: Version, pinned: bool) -> AdapterInfo:
    """An adapter that was read at least once; ``in_use`` counts the leases that run on it."""
    on_device, on_host = version.device is not None, version.host is not None
    return AdapterInfo(
        adapter_id=version.location.adapter_id,
        kind=version.kind,
        state=version.state,
        tier="device" if on_device else "host" if on_host else "disk",
        bytes=version.nbytes,
        pinned=pinned,
        source=version.location.source,
        revision=version.location.revision,
        in_use=version.grants,
        error=version.error.message if version.error else "",
        rank=version.rank,
        medusa_heads=version.medusa_heads,
        last_used=version.last_used,
        load=version.times,
        drafters=version.guesses,
        scope=version.location.scope[:_TOLD],
    )
