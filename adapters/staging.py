"""What lies in host memory, and what is read next: the policy, without doing anything."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lorax_spec.adapters.line import Wanted
from lorax_spec.adapters.tier import Tier
from lorax_spec.adapters.version import Version


def to_fetch(line: Sequence[Wanted]) -> list[Version]:
    """Files of everybody in line, all at once."""
    versions = dict.fromkeys(version for wanted in line for version in wanted)
    return [version for version in versions if version.absent and not version.fetched]


def to_read(
    line: Sequence[Wanted], host: Tier, device: Tier, reading: Collection[Version], limit: int
) -> list[Version]:
    """Whole sets or none, in line, as far as ``limit`` bytes go; the first whatever it takes.

    A part of a set would wait in host memory for the other part, which might find no room.
    """
    versions: dict[Version, None] = {}
    staged = sum(version.nbytes for version in reading)
    staged += sum(one.nbytes for one in host if one.leases and one not in device)
    for place, wanted in enumerate(_fetched(line)):
        absent = {version: None for version in wanted if version.absent and version not in versions}
        need = sum(version.nbytes for version in absent)
        if place and absent and staged + need > limit:
            break
        staged += need
        versions |= absent
    return list(versions)


def to_drop(
    line: Sequence[Wanted], host: Tier, reading: Collection[Version], limit: int
) -> list[Version]:
    """What must leave for host memory to keep to ``limit`` bytes with what is being read.

    What nobody waits for goes, least recently used first; then what is waited for, the last in
    line first, but not what the first waits for.  A retired version stays: it could not be read
    again.  What is being placed leaves by itself where the device shares host memory.
    """
    excess = host.bytes + sum(version.nbytes for version in reading) - limit
    excess -= sum(version.nbytes for version in host if version.placing)
    if excess <= 0:
        return []
    spare = [one for one in host if not (one.leases and one.device is None)]
    first = may_exceed(line)
    later = [one for wanted in reversed(line) for one in wanted if one not in first]
    dropped = []
    for version in dict.fromkeys((*spare, *later)):
        if excess > 0 and version in host and not (version.placing or version.retired):
            excess -= version.nbytes
            dropped.append(version)
    return dropped


def may_exceed(line: Sequence[Wanted]) -> Wanted:
    """What the first waits for; it alone may take more than the limit, so that it can go on."""
    return next(iter(_fetched(line)), ())


def _fetched(line: Sequence[Wanted]) -> list[Wanted]:
    return [wanted for wanted in line if all(version.fetched for version in wanted)]
