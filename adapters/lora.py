"""LoRA adapters as PEFT writes them (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lorax_spec.adapters import lora_config
from lorax_spec.adapters.lora_fit import fit, own_faults
from lorax_spec.adapters.lora_fold import Plan, plan
from lorax_spec.adapters.lora_tensors import PREFIX, Parts, parts
from lorax_spec.adapters.shape import ModelShape
from lorax_spec.adapters.tensor_file import StoredTensor
from lorax_spec.adapters.weights import LORA_A, LORA_B

CONFIG = lora_config.FILE
_BEYOND_PLAIN = ("use_dora", "lora_bias", "rank_pattern", "alpha_pattern", "modules_to_save")
config_faults = lora_config.config_faults


def owns(tensor: str) -> bool:
    """Whether a tensor of this name belongs to a LoRA."""
    return tensor.startswith(PREFIX)


def tensor_faults(
    config: Mapping[str, Any], tensors: Mapping[str, StoredTensor], shape: ModelShape | None
) -> Iterator[str]:
    """What is wrong with ``tensors`` under a faultless ``config``; ranks only without ``shape``."""
    if shape is not None and plain_plan(config, tensors, shape) is not None:
        return
    modules, others = parts(tensors)
    if not modules:
        yield f"no tensor is named {PREFIX}<module>.lora_A.weight"
    for name in others:
        yield f"tensor {name} is no part of a LoRA that is supported"
    scaling = lora_config.scaling(config)
    if shape is None:
        yield from own_faults(modules, scaling)
    else:
        yield from fit(modules, scaling, shape).faults
    updated = {path: one for path, one in modules.items() if one.low_rank}
    dora = [path for path, one in updated.items() if one.magnitude]
    yield from _option_faults(config, "use_dora", "lora_magnitude_vector", updated, dora)
    biased = [path for path, one in updated.items() if one.b_bias]
    yield from _option_faults(config, "lora_bias", "lora_B.bias", updated, biased)
    whole = [path for path, one in modules.items() if one.weight or one.bias]
    for name in config.get("modules_to_save") or ():
        if not any(path.endswith(name) for path in whole):
            yield f"modules_to_save names {name}, of which there is no tensor"


def _option_faults(
    config: Mapping[str, Any],
    option: str,
    tensor: str,
    updated: Mapping[str, Parts],
    having: Collection[str],
) -> Iterator[str]:
    """An option and the tensors that go with it must both be there or neither."""
    if config.get(option):
        for path in updated.keys() - having:
            yield f"{option} is set, but {path} has no {tensor}"
    elif having:
        yield f"there are tensors named {tensor}, but {option} is not set"


def planned(
    config: Mapping[str, Any], tensors: Mapping[str, StoredTensor], shape: ModelShape
) -> Plan:
    """How a faultless LoRA gets into a slab."""
    if (plain := plain_plan(config, tensors, shape)) is not None:
        return plain
    return general_plan(config, tensors, shape)


def general_plan(
    config: Mapping[str, Any], tensors: Mapping[str, StoredTensor], shape: ModelShape
) -> Plan:
    updates = fit(parts(tensors)[0], lora_config.scaling(config), shape).updates
    return plan(updates, shape.parameters)


def plain_plan(
    config: Mapping[str, Any], tensors: Mapping[str, StoredTensor], shape: ModelShape
) -> Plan | None:
    """What ``general_plan`` makes of a faultless LoRA that has A and B of linear layers and nothing
    else, as nearly all are; None for every other.

    Most adapters come while others run, and as long as Python looks at names the step loop waits.
    """
    if any(map(config.get, _BEYOND_PLAIN)) or config.get("bias", "none") != "none":
        return None
    rank: int = config["r"]
    ends = tuple(f"{end}.weight" for end in (LORA_A, LORA_B))
    stored: dict[str, StoredTensor] = {}
    for name in sorted(name for name in tensors if name.endswith(ends[0])):
        path = name[len(PREFIX) : -len(ends[0])]
        size, b = shape.linears.get(path), tensors.get(PREFIX + path + ends[1])
        if size is None or b is None or b.shape != (size[0], rank):
            return None
        a = tensors[name]
        if a.shape != (rank, size[1]):
            return None
        stored[path + LORA_A], stored[path + LORA_B] = a, b
    if not stored or len(stored) != len(tensors):
        return None
    scale = lora_config.scaling(config).scale_of("")
    scales = {name.removesuffix(LORA_A): scale for name in stored if name.endswith(LORA_A)}
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    return Plan(shapes, stored, (), scales, ())
