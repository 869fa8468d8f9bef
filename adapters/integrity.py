"""Checking that the books agree with what is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lorax_spec.adapters.residency import Residency
from lorax_spec.adapters.staging import may_exceed
from lorax_spec.adapters.tier import Tier
from lorax_spec.adapters.version import Version
from lorax_spec.adapters.weights import AdapterWeights


def faults(residency: Residency, current: Iterable[Version]) -> Iterator[str]:
    """What is wrong; nothing, unless there is a bug in this room or a lease was tampered with."""
    versions = {*current, *residency.retired}
    yield from _tier_faults("device", residency.device, {v: v.device for v in versions})
    yield from _tier_faults("host", residency.host, {v: v.host for v in versions})
    yield from _budget_faults(residency)
    for version in versions:
        yield from _version_faults(version, residency)
    for lease in residency.leases:
        if lease in residency.waiting and (lease.granted or lease.settled):
            yield "a lease waits though it was granted or failed"
        if lease not in residency.waiting and not (lease.granted or lease.settled):
            yield "a lease was forgotten"
        if lease in residency.recalled and not lease.granted:
            yield "a lease is recalled that was not granted"
        if not versions.issuperset(lease.versions):
            yield "a lease holds a version that was dropped"
    busy = any(version.task or version.grants for version in versions)
    if residency.waiting and not busy:
        yield f"{len(residency.waiting)} leases wait for nothing"


def _tier_faults(
    name: str, tier: Tier, memory: dict[Version, AdapterWeights | None]
) -> Iterator[str]:
    allocated = 0
    for version, weights in memory.items():
        label = f"{version.location.adapter_id} on the {name}"
        if weights is not None:
            allocated += weights.slab.data.untyped_storage().nbytes()
            if version not in tier:
                yield f"{label} is not counted"
        elif version in tier:
            allocated += version.nbytes
            if not version.placing:
                yield f"{label} is counted but not there"
    if any(version not in memory for version in tier):
        yield f"the {name} tier counts a version that was dropped"
    if tier.bytes != allocated:
        yield f"the {name} tier counts {tier.bytes} bytes, allocated are {allocated}"


def _budget_faults(residency: Residency) -> Iterator[str]:
    budget, device, host = residency.budget, residency.device, residency.host
    if device.bytes > budget.device_bytes:
        yield f"{device.bytes} bytes on the device, allowed are {budget.device_bytes}"
    if len(device) > budget.max_active:
        yield f"{len(device)} adapters on the device, allowed are {budget.max_active}"
    kept = [version for version in host if not version.placing]
    host_bytes = sum(version.nbytes for version in kept)
    first = may_exceed(residency.waiting.wanted())
    spare = any(version not in first and not version.retired for version in kept)
    if spare and host_bytes > budget.host_bytes:
        yield f"{host_bytes} bytes in host memory, allowed are {budget.host_bytes}"


def _version_faults(version: Version, residency: Residency) -> Iterator[str]:
    label = version.location.adapter_id
    grants = sum(lease.granted for lease in version.leases)
    if version.grants != grants:
        yield f"{label} counts {version.grants} grants of {grants}"
    if not version.leases <= residency.leases.keys():
        yield f"{label} is held by a lease that ended"
    if version.turn_began is not None and not version.grants:
        yield f"{label} has its turn though nobody runs on it"
    if version.grants and version not in residency.device:
        yield f"{label} is granted but has no room"
    if version.retired != (version in residency.retired):
        yield f"{label} is retired in one book only"
    if version.retired and not (version.leases or version.task):
        yield f"{label} is retired and held by nobody, but still there"
    if (version.task == "read") != (version in residency.reading):
        yield f"{label} is being read in one book only"
