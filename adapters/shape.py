"""What an adapter must fit: names and sizes of the served model's layers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lorax_spec.adapters.linears import is_linear, parameters_of

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

#: Projections that some models have in one, and their parts from the first row on.
FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}


@dataclass(frozen=True)
class ModelShape:
    """``linears`` maps module paths, as in ``model.named_modules()``, to (out, in) features.

    ``output`` and ``input`` are the paths of the output and input embeddings, both [vocabulary,
    hidden]; ``biased`` are other layers with a bias, by its size.  ``fused`` maps linear layers
    that do the work of several to the names of those and their rows, from the first on; weights of
    ``turned`` ones lie in files as [in, out].
    ``parameters``, by name, are what updates are folded with.  ``other_names`` are further base
    model names that adapters for this model may carry.
    """

    linears: Mapping[str, tuple[int, int]]
    hidden_size: int
    vocab_size: int
    model_id: str
    other_names: tuple[str, ...] = ()
    output: str = ""
    input: str = ""
    biased: Mapping[str, int] = field(default_factory=dict)
    fused: Mapping[str, Mapping[str, range]] = field(default_factory=dict)
    turned: frozenset[str] = frozenset()
    parameters: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False, compare=False)

    def is_other_model(self, base_model: str) -> bool:
        """Whether ``base_model`` is the hub name of a model that is certainly not this one.

        Only ``owner/name`` against ``owner/name`` says so, whatever the case and the owner: a
        fork or a mirror keeps the name.  A local path says nothing; there the shapes decide.
        """
        own = (self.model_id, *self.other_names)
        if not _is_hub_name(base_model) or not _is_hub_name(self.model_id):
            return False
        return _last_part(base_model) not in map(_last_part, own)


def _is_hub_name(name: str) -> bool:
    return _HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


def shape_of(
    model: torch.nn.Module,
    model_id: str,
    other_names: tuple[str, ...] = (),
    turned: frozenset[str] = frozenset(),
) -> ModelShape:
    """The shape of a transformers causal language model, before any of its layers is wrapped.

    The output embedding is none of ``linears``: heads of other adapters read the base model's.
    """
    output = model.get_output_embeddings()  # type: ignore[operator]
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    names = {id(module): path for path, module in model.named_modules()}
    linears = {
        path: (module.out_features, module.in_features)
        for path, module in model.named_modules()
        if is_linear(module) and module is not output
    }
    biased = {
        name.removesuffix(".bias"): parameter.shape[0]
        for name, parameter in model.named_parameters()
        if name.endswith(".bias") and parameter.dim() == 1
    }
    vocab_size, hidden_size = output.out_features, output.in_features
    return ModelShape(
        linears,
        hidden_size,
        vocab_size,
        model_id,
        other_names,
        names[id(output)],
        names[id(embedding)] if embedding.weight.shape == (vocab_size, hidden_size) else "",
        {path: size for path, size in biased.items() if path not in linears},
        dict(_fused(linears, model.config)),
        turned,
        parameters_of(model),
    )


def _fused(linears: Mapping[str, tuple[int, int]], config: Any) -> Any:
    """Fused projections whose rows are divided as their names say."""
    text = config.get_text_config()
    heads = int(text.num_attention_heads)
    head_dim = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    kv_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    for path, (out_features, _) in linears.items():
        name = path.rpartition(".")[2]
        if name == "qkv_proj":
            sizes = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]
        elif name == "gate_up_proj":
            sizes = [out_features // 2] * 2
        else:
            continue
        if sum(sizes) == out_features:
            yield path, row_ranges(dict(zip(FUSED[name], sizes, strict=True)))


def row_ranges(sizes: Mapping[str, int]) -> dict[str, range]:
    """One after the other."""
    ranges, end = {}, 0
    for name, size in sizes.items():
        ranges[name] = range(end, end + size)
        end += size
    return ranges
