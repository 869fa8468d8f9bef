"""Static trees in the form of Medusa's ``medusa_choices`` (Cai et al. 2024, arXiv 2401.10774).

A path of ranks names a node: ``[0, 2]`` is the third best guess of head 1 after the best of head 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

KEY = "medusa_choices"
FILE = f"{KEY}.json"
#: With the root, what one verification takes.
MOST_NODES = 63
_MOST_RANK = 63

Choices = tuple[tuple[int, ...], ...]


def faults(content: object, heads: int) -> Iterator[str]:
    """What is wrong with a tree for so many heads."""
    if not isinstance(content, list) or not content:
        yield f"{KEY} is not a list of paths of ranks"
        return
    if len(content) > MOST_NODES:
        yield f"{KEY} has {len(content)} nodes; at most {MOST_NODES} are drafted"
        return
    paths = set()
    for path in content:
        if not isinstance(path, list) or not path or not all(map(_is_rank, path)):
            yield f"{KEY}: {path!r:.80} is not a path of ranks from 0 to {_MOST_RANK}"
        elif len(path) > heads:
            yield f"{KEY}: {path!r:.80} is deeper than {heads} heads can guess"
        elif tuple(path) in paths:
            yield f"{KEY}: {path} is there twice"
        else:
            paths.add(tuple(path))
    for known in sorted(paths):
        if len(known) > 1 and known[:-1] not in paths:
            yield f"{KEY}: {list(known)} is there without {list(known[:-1])}"


def parse(content: list[Any]) -> Choices:
    """The paths of a faultless tree, shorter ones first."""
    return tuple(sorted(map(tuple, content), key=lambda path: (len(path), path)))


def _is_rank(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST_RANK
