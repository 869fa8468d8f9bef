"""Medusa heads (Cai et al. 2024, arXiv 2401.10774): ``{head}.{layer}.linear.weight|bias``.

In v1 every head has its own lm head, ``{head}.{num_layers}.weight``, or all share one that is not
the base model's; in v2 none has one.  Tensors are told here by these names, whatever the file calls
them (see ``medusa_layout``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lorax_spec.adapters import check, medusa_layout
from lorax_spec.adapters.medusa_layout import NUMBER, SHARED_LM_HEAD
from lorax_spec.adapters.shape import ModelShape
from lorax_spec.adapters.slab import Piece
from lorax_spec.adapters.tensor_file import StoredTensor
from lorax_spec.adapters.weights import HEAD_BIAS, HEAD_LM_HEAD, HEAD_WEIGHT

CONFIG = "config.json"
_NAME = re.compile(rf"(?P<head>{NUMBER})\.(?P<layer>{NUMBER})\.(?:linear\.(?:weight|bias)|weight)")
_LM_HEAD = re.compile(rf"{NUMBER}\.{NUMBER}\.weight")


def version(tensors: Mapping[str, StoredTensor]) -> int:
    """1 where heads have lm heads of their own, else 2; the names decide."""
    return 1 if SHARED_LM_HEAD in tensors or _have_own_lm_heads(tensors) else 2


def config_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """What keeps heads of this config from being served, whatever the model."""
    for field, least in (("medusa_num_heads", 1), ("medusa_num_layers", 0)):
        if fault := check.whole_number(config, field, least):
            yield fault
    yield from medusa_layout.config_faults(config)
    stated = config.get("version")
    if stated is not None and _stated_version(config) is None:
        yield f"Medusa version {stated!r} is not supported; 1 and 2 are"


def tensor_faults(
    config: Mapping[str, Any], tensors: Mapping[str, StoredTensor], shape: ModelShape | None
) -> Iterator[str]:
    """What is wrong with ``tensors`` under a faultless ``config``."""
    num_heads, num_layers = config["medusa_num_heads"], config["medusa_num_layers"]
    matches = [match for name in tensors if (match := _NAME.fullmatch(name))]
    heads = {int(match["head"]) for match in matches}
    # The tensors bound every loop below: a config may claim any number.
    if len(heads) != num_heads or max(heads) >= num_heads:
        yield f"{CONFIG} says {num_heads} heads, the tensors are of heads {sorted(heads)}"
        return
    own_lm_heads = _have_own_lm_heads(tensors)
    layers = {int(match["layer"]) for match in matches}
    found = max(layers) + (0 if own_lm_heads else 1)
    if found != num_layers:
        yield f"{CONFIG} says {num_layers} layers to a head, the tensors have {found}"
        return
    if _stated_version(config) not in (None, version(tensors)):
        have = "have" if version(tensors) == 1 else "lack"
        yield f"{CONFIG} says version {config['version']}, but the heads {have} own lm heads"
    unbiased = medusa_layout.may_lack_biases(config)
    expected = _expected(tensors, num_heads, num_layers, shape, unbiased)
    yield from check.tensor_faults(expected, tensors)
    for name in tensors.keys() - expected.keys():
        yield f"tensor {name} belongs to no layer of a head"


def shapes(config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> check.Shapes:
    """Shapes of the pieces that faultless heads take in a slab."""
    heads, layers = config["medusa_num_heads"], config["medusa_num_layers"]
    vocab_size, hidden = _own_sizes(tensors, layers)
    stacked: dict[str, tuple[int, ...]] = {
        HEAD_WEIGHT: (heads, layers, hidden, hidden),
        HEAD_BIAS: (heads, layers, hidden),
    }
    if version(tensors) == 1:
        stacked[HEAD_LM_HEAD] = (1 if SHARED_LM_HEAD in tensors else heads, vocab_size, hidden)
    return stacked


def places(
    tensors: Mapping[str, StoredTensor], pieces: Mapping[str, Piece]
) -> dict[str, tuple[StoredTensor, int]]:
    """Where in the slab that has ``pieces`` each stored tensor goes."""
    found: dict[str, tuple[StoredTensor, int]] = {}
    for name, stored in tensors.items():
        if name == SHARED_LM_HEAD:
            found[name] = stored, pieces[HEAD_LM_HEAD].offset
            continue
        head, layer, *rest = name.split(".")
        if rest == ["weight"]:
            stack, index = pieces[HEAD_LM_HEAD], int(head)
        else:
            stack = pieces[HEAD_WEIGHT if rest[1] == "weight" else HEAD_BIAS]
            index = int(head) * stack.shape[1] + int(layer)
        found[name] = stored, stack.offset + index * stored.numel
    return found


def _stated_version(config: Mapping[str, Any]) -> int | None:
    return {"1": 1, "1.0": 1, "2": 2, "2.0": 2}.get(str(config.get("version")))


def _expected(
    tensors: Mapping[str, StoredTensor],
    heads: int,
    layers: int,
    shape: ModelShape | None,
    unbiased: bool,
) -> dict[str, tuple[int, ...]]:
    if shape is not None:
        vocab_size, hidden = shape.vocab_size, shape.hidden_size
    else:
        vocab_size, hidden = _own_sizes(tensors, layers)
    expected: dict[str, tuple[int, ...]] = {}
    biased = not unbiased or any(name.endswith(".bias") for name in tensors)
    for head in range(heads):
        for layer in range(layers):
            expected[f"{head}.{layer}.linear.weight"] = (hidden, hidden)
            # vLLM's heads may do without; then none has one.
            if biased:
                expected[f"{head}.{layer}.linear.bias"] = (hidden,)
        if _have_own_lm_heads(tensors):
            expected[f"{head}.{layers}.weight"] = (vocab_size, hidden)
    if SHARED_LM_HEAD in tensors:
        expected[SHARED_LM_HEAD] = (vocab_size, hidden)
    return expected


def _have_own_lm_heads(tensors: Mapping[str, StoredTensor]) -> bool:
    return any(map(_LM_HEAD.fullmatch, tensors))


def _own_sizes(tensors: Mapping[str, StoredTensor], layers: int) -> tuple[int, int]:
    """Vocabulary (0 in v2) and hidden size by the first head's own tensors."""
    last = tensors.get(f"0.{layers}.weight") or tensors.get(SHARED_LM_HEAD)
    last = last or tensors.get("0.0.linear.weight")
    if last is None or len(last.shape) != 2:
        return 0, 0
    return (last.shape[0] if version(tensors) == 1 else 0), last.shape[1]
