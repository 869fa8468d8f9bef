"""What an ``adapter_config.json`` of PEFT asks for, and the rank and scale of every module."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lorax_spec.adapters import check

FILE = "adapter_config.json"

#: What is looked at below, or where the tensors are.
_USED = {
    "alpha_pattern",
    "base_model_name_or_path",
    "bias",
    "init_lora_weights",
    "lora_alpha",
    "lora_bias",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "use_dora",
    "use_rslora",
}
#: What concerns training or bookkeeping only.  The tensors themselves say which modules they fit
#: and which way round a weight lies is the model's affair.
_IDLE = {
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
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
_BIASES = ("none", "all", "lora_only")
_LARGEST_ALPHA = 1e9

#: Patterns come from strangers, and matching runs beside the step loop: names, alternatives,
#: character classes and few repetitions, none within another, which no name can make slow.
_PATTERN = re.compile(
    r"\^?(?:(?:[\w.-]|\\[.dw]|\[[\w-]+\])[*+?]?|\((?:\?:)?(?:[\w.|-]|\\\.)+\))+\$?"
)
_REPEAT = re.compile(r"[*+?](?!:)")
_MOST_REPEATS, _LONGEST_PATTERN, _MOST_PATTERNS = 2, 200, 4096


@dataclass(frozen=True)
class Scaling:
    """Rank and factor of each module's update; patterns as PEFT matches them, in order.

    ``root``: rsLoRA's scale; ``biased``: the layers' own biases were trained as well.
    """

    rank: int
    alpha: float
    root: bool
    biased: bool
    rank_patterns: tuple[tuple[re.Pattern[str], int], ...] = ()
    alpha_patterns: tuple[tuple[re.Pattern[str], float], ...] = ()

    def rank_of(self, path: str) -> int:
        return next((n for pattern, n in self.rank_patterns if pattern.match(path)), self.rank)

    def scale_of(self, path: str) -> float:
        """alpha / r, or alpha / sqrt(r) for rsLoRA (Kalajdzievski 2023, arXiv 2312.03732)."""
        alpha = next((a for pattern, a in self.alpha_patterns if pattern.match(path)), self.alpha)
        rank = self.rank_of(path)
        return float(alpha / (rank**0.5 if self.root else rank))


def scaling(config: Mapping[str, Any]) -> Scaling:
    """Of a faultless config."""
    return Scaling(
        config["r"],
        config["lora_alpha"],
        bool(config.get("use_rslora")),
        config.get("bias", "none") != "none",
        _compiled(config.get("rank_pattern")),
        _compiled(config.get("alpha_pattern")),
    )


def config_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """What keeps an adapter of this config from being served, whatever the model."""
    if config.get("peft_type") != "LORA":
        yield f"peft_type is {config.get('peft_type')!r}; only 'LORA' is supported"
        return
    if fault := check.whole_number(config, "r", 1):
        yield fault
    if not _is_alpha(config.get("lora_alpha")):
        yield f"lora_alpha is {config.get('lora_alpha')!r}, not a number"
    yield from _pattern_faults("rank_pattern", config.get("rank_pattern"))
    yield from _pattern_faults("alpha_pattern", config.get("alpha_pattern"))
    if config.get("bias", "none") not in _BIASES:
        yield f"bias={config['bias']!r} is none of {', '.join(_BIASES)}"
    saved = config.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(name, str) and name for name in saved):
        yield f"modules_to_save is {saved!r}, not a list of names"
    if config.get("use_dora") and config.get("lora_bias"):
        yield "use_dora and lora_bias together are not supported"
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init not in _PLAIN_INITS:
        yield f"init_lora_weights={init!r} changes the base weights; convert it to a plain LoRA"
    for option in sorted(config.keys() - _USED - _IDLE):
        if config[option]:
            yield f"PEFT option {option}={config[option]!r} is not supported"


def _is_alpha(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= _LARGEST_ALPHA  # type: ignore[arg-type]


def _is_rank(value: object) -> bool:
    return type(value) is int and 1 <= value < 2**31


def _pattern_faults(option: str, patterns: object) -> Iterator[str]:
    if patterns is None:
        return
    if not isinstance(patterns, dict) or len(patterns) > _MOST_PATTERNS:
        yield f"{option} is not an object of at most {_MOST_PATTERNS} patterns"
        return
    fits = _is_rank if option == "rank_pattern" else _is_alpha
    for pattern, value in patterns.items():
        repeats = len(_REPEAT.findall(pattern))
        short = len(pattern) <= _LONGEST_PATTERN and repeats <= _MOST_REPEATS
        if not short or not _PATTERN.fullmatch(pattern) or not _compiles(pattern):
            yield f"{option}: {pattern!r} is a regular expression of a kind that is not supported"
        if not fits(value):
            yield f"{option}: {pattern!r} has {value!r}, not a number that can be one"


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _compiled(patterns: Mapping[str, Any] | None) -> tuple[tuple[re.Pattern[str], Any], ...]:
    return tuple(
        (re.compile(rf"(.*\.)?({pattern})$"), value) for pattern, value in (patterns or {}).items()
    )
