"""How often each guess of a head came true when its heads were made: ``calibration.json``.

It concerns how much is drafted, never what is generated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

FILE = "calibration.json"
#: Ranks of a head that are looked at, best guess first.
MOST_RANKS = 10
_MODES = ("greedy", "sampled")
Bounds = tuple[float, float]
#: No measured factor or score comes near it.
_MOST = 1000.0
_FACTOR, _SCORE, _SHARE = (0.0, _MOST), (-_MOST, _MOST), (0.0, 1.0)
#: What each head has one number of, and the number's bounds; the last three come together.
_FREE = {"sharpness": _FACTOR, "noise": _FACTOR}
_NONE = {"none": _SCORE}
_SURE = {"share": _SHARE, "sharpness": _FACTOR, "noise": _FACTOR, "none": _SCORE}
_GREEDY = {"sharpness": _FACTOR, "none": _SCORE}
_FITTED = ("none", "sure", "greedy")


@dataclass(frozen=True)
class SurePart:
    """Each head's numbers for when the noise decides little, and in [0, 1] the share of that."""

    share: tuple[float, ...]
    sharpness: tuple[float, ...]
    noise: tuple[float, ...]
    none: tuple[float, ...]


@dataclass(frozen=True)
class GreedyPart:
    """Each head's numbers at temperature 0."""

    sharpness: tuple[float, ...]
    none: tuple[float, ...]


@dataclass(frozen=True)
class HeadCalibration:
    """``accepted_greedy[k][r]``: how often the guess of rank ``r`` of head ``k`` was the model's
    token where all guesses before it on its path were, in [0, 1], at temperature 0;
    ``accepted_sampled``: the same when sampling.

    ``sharpness[k]`` and ``noise[k]``, in [0, 1000]: factors of head ``k``'s logits and of a
    position's noise in the score of its guesses when sampling.  ``none[k]``, in [-1000, 1000]: the
    score of none of them.  ``none``, ``sure`` and ``greedy`` are all there or all None.
    """

    accepted_greedy: tuple[tuple[float, ...], ...]
    accepted_sampled: tuple[tuple[float, ...], ...]
    sharpness: tuple[float, ...]
    noise: tuple[float, ...]
    none: tuple[float, ...] | None = None
    sure: SurePart | None = None
    greedy: GreedyPart | None = None


def faults(content: Mapping[str, Any], heads: int) -> Iterator[str]:
    """What is wrong with the calibration of so many heads."""
    accepted = content.get("accepted")
    if not isinstance(accepted, dict):
        yield f"{FILE}: accepted is no object of {' and '.join(_MODES)}"
    else:
        for mode in _MODES:
            yield from _table_faults(f"accepted.{mode}", accepted.get(mode), heads)
    yield from _part_faults("", content, _FREE, heads)
    missing = [name for name in _FITTED if name not in content]
    if len(missing) == len(_FITTED):
        return
    if missing:
        yield f"{FILE}: {', '.join(missing)} is missing; {', '.join(_FITTED)} come together"
        return
    yield from _part_faults("", content, _NONE, heads)
    for name, bounds in (("sure", _SURE), ("greedy", _GREEDY)):
        if isinstance(content[name], dict):
            yield from _part_faults(f"{name}.", content[name], bounds, heads)
        else:
            yield f"{FILE}: {name} is no object of {', '.join(bounds)}"


def parse(content: Mapping[str, Any]) -> HeadCalibration:
    """A faultless calibration."""
    greedy, sampled = (
        tuple(tuple(map(float, ranks)) for ranks in content["accepted"][mode]) for mode in _MODES
    )
    free = _part(content, _FREE)
    if "none" not in content:
        return HeadCalibration(greedy, sampled, **free)
    return HeadCalibration(
        greedy,
        sampled,
        **free,
        **_part(content, _NONE),
        sure=SurePart(**_part(content["sure"], _SURE)),
        greedy=GreedyPart(**_part(content["greedy"], _GREEDY)),
    )


def _part(content: Mapping[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    return {field: tuple(map(float, content[field])) for field in fields}


def _table_faults(name: str, table: object, heads: int) -> Iterator[str]:
    if not isinstance(table, list) or len(table) != heads:
        yield f"{FILE}: {name} is not a list of {heads} lists, one for each head"
        return
    for head, ranks in enumerate(table):
        if not isinstance(ranks, list) or not 1 <= len(ranks) <= MOST_RANKS:
            yield f"{FILE}: {name}[{head}] is not a list of 1 to {MOST_RANKS} shares"
        elif wrong := [share for share in ranks if not _within(share, _SHARE)]:
            yield f"{FILE}: {name}[{head}] has {wrong[0]!r:.80}, which is no share from 0 to 1"


def _part_faults(
    prefix: str, part: Mapping[str, Any], fields: Mapping[str, Bounds], heads: int
) -> Iterator[str]:
    for field, bounds in fields.items():
        name, row = prefix + field, part.get(field)
        if not isinstance(row, list) or len(row) != heads:
            yield f"{FILE}: {name} is not a list of {heads} numbers, one for each head"
        elif wrong := [number for number in row if not _within(number, bounds)]:
            least, most = bounds
            yield f"{FILE}: {name} has {wrong[0]!r:.80}, no number from {least:g} to {most:g}"


def _within(value: object, bounds: Bounds) -> bool:
    """Whether it is a number within them; NaN is within none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return bounds[0] <= value <= bounds[1]
