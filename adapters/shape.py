"""What an adapter must fit: names and sizes of the served model's linear layers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class ModelShape:
    """``linears`` maps module paths, as in ``model.named_modules()``, to (out, in) features.

    ``other_names`` are further base model names that adapters for this model may carry.
    """

    linears: Mapping[str, tuple[int, int]]
    hidden_size: int
    vocab_size: int
    model_id: str
    other_names: tuple[str, ...] = ()

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
    model: torch.nn.Module, model_id: str, other_names: tuple[str, ...] = ()
) -> ModelShape:
    """The shape of a transformers causal language model, before any of its layers is wrapped.

    The output embedding is left out: heads of other adapters read it, so none may change it.
    """
    output = model.get_output_embeddings()  # type: ignore[operator]
    linears = {
        path: (module.out_features, module.in_features)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not output
    }
    vocab_size, hidden_size = output.weight.shape
    return ModelShape(linears, hidden_size, vocab_size, model_id, other_names)
