"""LoRA adapters as PEFT writes them (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lorax_spec.adapters import check
from lorax_spec.adapters.shape import ModelShape
from lorax_spec.adapters.tensor_file import StoredTensor
from lorax_spec.adapters.weights import LORA_A, LORA_B

CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_ENDS = (f"{LORA_A}.weight", f"{LORA_B}.weight")

#: What scales the update or is looked at below.
_USED = {"peft_type", "r", "lora_alpha", "use_rslora", "base_model_name_or_path", "bias"}
#: What concerns training or bookkeeping only.  The tensors themselves say which modules they fit.
_IDLE = {
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
    "task_type",
}
#: Initialisations that leave the base weights as they are; PiSSA, OLoRA and others change them.
_PLAIN_INITS = ("eva", "gaussian", "mica", "orthogonal")


def owns(tensor: str) -> bool:
    """Whether a tensor of this name belongs to a LoRA."""
    return tensor.startswith(_PREFIX)


def scale(config: Mapping[str, Any]) -> float:
    """The factor of the update: alpha / r, or alpha / sqrt(r) for rsLoRA."""
    rank: int = config["r"]
    return float(config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank))


def config_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """What keeps an adapter of this config from being served, whatever the model."""
    if config.get("peft_type") != "LORA":
        yield f"peft_type is {config.get('peft_type')!r}; only 'LORA' is supported"
        return
    if fault := check.whole_number(config, "r", 1):
        yield fault
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) <= 1e9:
        yield f"lora_alpha is {alpha!r}, not a number"
    if config.get("bias", "none") != "none":
        yield f"bias={config['bias']!r} is not supported; only 'none' is"
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init not in _PLAIN_INITS:
        yield f"init_lora_weights={init!r} changes the base weights; convert it to a plain LoRA"
    for option in sorted(config.keys() - _USED - _IDLE - {"init_lora_weights"}):
        if config[option]:
            yield f"PEFT option {option}={config[option]!r} is not supported"


def tensor_faults(
    config: Mapping[str, Any], tensors: Mapping[str, StoredTensor], shape: ModelShape | None
) -> Iterator[str]:
    """What is wrong with ``tensors`` under a faultless ``config``; ranks only without ``shape``."""
    modules = _modules(tensors)
    if not modules:
        yield f"no tensor is named {_PREFIX}<module>.lora_A.weight"
    known = {name for names in modules.values() for name in names}
    for name in tensors:
        if name not in known:
            yield f"tensor {name} is neither lora_A nor lora_B of a module"
    for path, (name_a, name_b) in modules.items():
        if shape is None:
            out_features, in_features = _own_features(tensors.get(name_a), tensors.get(name_b))
        elif path in shape.linears:
            out_features, in_features = shape.linears[path]
        else:
            yield f"target module {path} is no linear layer of this model that adapters may change"
            continue
        expected = {name_a: (config["r"], in_features), name_b: (out_features, config["r"])}
        yield from check.tensor_faults(expected, tensors)


def pieces(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors by the names they have in a slab, A and B of a module side by side."""
    named: dict[str, StoredTensor] = {}
    for path, (name_a, name_b) in _modules(tensors).items():
        named[path + LORA_A] = tensors[name_a]
        named[path + LORA_B] = tensors[name_b]
    return named


def _modules(tensors: Mapping[str, StoredTensor]) -> dict[str, tuple[str, str]]:
    """What A and B of each module are named, whether they are there or not."""
    paths = {path for name in tensors if (path := _path(name)) is not None}
    return {path: (_PREFIX + path + _ENDS[0], _PREFIX + path + _ENDS[1]) for path in sorted(paths)}


def _path(tensor: str) -> str | None:
    """The module that a tensor of this name belongs to; None where the name is no such name."""
    path = tensor[len(_PREFIX) : -len(_ENDS[0])]
    plain = tensor.startswith(_PREFIX) and tensor.endswith(_ENDS) and path and "\n" not in path
    return path if plain else None


def _own_features(a: StoredTensor | None, b: StoredTensor | None) -> tuple[int, int]:
    return (b.shape[0] if b and b.shape else 0), (a.shape[-1] if a and a.shape else 0)
