"""Other ways of naming Medusa heads: with ``medusa_head.`` before every name, as full checkpoints
have them, and vLLM's::

    blocks.{head}.layers.{layer}.weight     lm_heads.{head}.weight     lm_head.weight, for all heads
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

#: An lm head that all heads share.
SHARED_LM_HEAD = "lm_head.weight"

_PREFIXES = ("medusa_head.", "medusa_heads.")
NUMBER = r"(?:0|[1-9]\d{0,3})"
_USUAL = re.compile(rf"{NUMBER}\.{NUMBER}\.(?:linear\.(?:weight|bias)|weight)")
_BLOCK = re.compile(rf"blocks\.({NUMBER})\.layers\.({NUMBER})\.(weight|bias)")
_LM_HEAD = re.compile(rf"lm_heads\.({NUMBER})\.weight")


def common_config(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The config with the usual names for heads and layers; None without Medusa heads."""
    if "medusa_num_heads" in config:
        return config
    if not _is_of_vllm(config) or "num_heads" not in config:
        return None
    heads, layers = config["num_heads"], config.get("num_hidden_layers", 1)
    return {**config, "medusa_num_heads": heads, "medusa_num_layers": layers}


def config_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """What of vLLM's config is not served."""
    if not _is_of_vllm(config):
        return
    truncated, vocabulary = config.get("truncated_vocab_size"), config.get("vocab_size")
    if truncated is not None and truncated != vocabulary:
        yield (
            f"truncated_vocab_size={truncated!r}: heads over a part of the vocabulary are not "
            "supported"
        )
    if config.get("logit_scale") not in (None, 1):
        yield f"logit_scale={config['logit_scale']!r} is not supported; only 1 is"


def may_lack_biases(config: Mapping[str, Any]) -> bool:
    """Whether the layers of these heads may be without (``medusa_fc_bias``)."""
    return _is_of_vllm(config) and not config.get("medusa_fc_bias")


def common_name(tensor: str, config: Mapping[str, Any]) -> str | None:
    """What the tensor would be called in the usual layout, SHARED_LM_HEAD aside; None where it is
    no tensor of Medusa heads."""
    name = tensor
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    if _USUAL.fullmatch(name):
        return name
    if not _is_of_vllm(config):
        return None
    if match := _BLOCK.fullmatch(name):
        head, layer, kind = match.groups()
        return f"{head}.{layer}.linear.{kind}"
    if match := _LM_HEAD.fullmatch(name):
        return f"{match[1]}.{config['medusa_num_layers']}.weight"
    return name if name == SHARED_LM_HEAD else None


def _is_of_vllm(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "medusa"
