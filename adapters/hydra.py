"""Hydra heads (Ankner et al. 2024, arXiv 2402.05109): ``hydra.{head}.in|out.weight|bias``.

Head ``k`` also sees the tokens before its guess: the last committed one and ``k`` drafted ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lorax_spec.adapters import check
from lorax_spec.adapters.shape import ModelShape
from lorax_spec.adapters.slab import Piece
from lorax_spec.adapters.tensor_file import StoredTensor
from lorax_spec.adapters.weights import hydra_piece

CONFIG = "config.json"
_NAME = re.compile(r"hydra\.(?P<head>0|[1-9][0-9]{0,3})\.(?:in|out)\.(?:weight|bias)")


def owns(tensor: str) -> bool:
    """Whether a tensor of this name belongs to Hydra heads."""
    return _NAME.fullmatch(tensor) is not None


def config_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """What keeps heads of this config from being served, whatever the model."""
    for field in ("hydra_num_heads", "hydra_inner_size"):
        if fault := check.whole_number(config, field, 1):
            yield fault
    stated = config.get("version")
    if stated is not None and str(stated) not in ("1", "1.0"):
        yield f"Hydra version {stated!r} is not supported; 1 is"


def tensor_faults(
    config: Mapping[str, Any], tensors: Mapping[str, StoredTensor], shape: ModelShape | None
) -> Iterator[str]:
    """What is wrong with ``tensors`` under a faultless ``config``."""
    num_heads: int = config["hydra_num_heads"]
    heads = {int(match["head"]) for name in tensors if (match := _NAME.fullmatch(name))}
    # The tensors bound every loop below: a config may claim any number.
    if len(heads) != num_heads or max(heads) >= num_heads:
        yield f"{CONFIG} says {num_heads} heads, the tensors are of heads {sorted(heads)}"
        return
    hidden = _own_hidden(tensors) if shape is None else shape.hidden_size
    expected = _expected(num_heads, config["hydra_inner_size"], hidden)
    yield from check.tensor_faults(expected, tensors)


def shapes(config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> check.Shapes:
    """Shapes of the pieces that faultless heads take in a slab; named as the tensors are."""
    return _expected(config["hydra_num_heads"], config["hydra_inner_size"], _own_hidden(tensors))


def places(
    tensors: Mapping[str, StoredTensor], pieces: Mapping[str, Piece]
) -> dict[str, tuple[StoredTensor, int]]:
    """Where in the slab that has ``pieces`` each stored tensor goes."""
    return {name: (tensors[name], pieces[name].offset) for name in pieces if name in tensors}


def _expected(heads: int, inner: int, hidden: int) -> dict[str, tuple[int, ...]]:
    expected: dict[str, tuple[int, ...]] = {}
    for head in range(heads):
        expected[hydra_piece(head, "in.weight")] = (inner, (head + 2) * hidden)
        expected[hydra_piece(head, "in.bias")] = (inner,)
        expected[hydra_piece(head, "out.weight")] = (hidden, inner)
        expected[hydra_piece(head, "out.bias")] = (hidden,)
    return expected


def _own_hidden(tensors: Mapping[str, StoredTensor]) -> int:
    """The hidden size by the first head's own tensors."""
    last = tensors.get(hydra_piece(0, "out.weight"))
    return last.shape[0] if last is not None and last.shape else 0
