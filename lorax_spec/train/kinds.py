"""Heads of either kind, told apart by what their folder holds."""

from __future__ import annotations

from pathlib import Path

from lorax_spec.errors import InvalidArgument
from lorax_spec.train import heads as medusa
from lorax_spec.train import hydra
from lorax_spec.train.heads import MedusaHeads, load_heads, save_heads
from lorax_spec.train.hydra import HydraHeads, load_hydra, save_hydra

AnyHeads = MedusaHeads | HydraHeads


def load(folder: Path, hidden_size: int, num_heads: int | None = None) -> AnyHeads:
    """Read the heads in ``folder``, whichever they are; see load_heads and load_hydra.

    Raises InvalidArgument where there are none.
    """
    if (folder / hydra.WEIGHTS).exists():
        return load_hydra(folder, hidden_size, num_heads)
    if (folder / medusa.WEIGHTS).exists():
        return load_heads(folder, hidden_size, num_heads)
    raise InvalidArgument(f"{folder} holds neither {medusa.WEIGHTS} nor {hydra.WEIGHTS}")


def save(heads: AnyHeads, folder: Path, base_id: str) -> None:
    """Write ``config.json`` and the tensors in bfloat16, in the layout of their kind."""
    if isinstance(heads, HydraHeads):
        save_hydra(heads, folder, base_id)
    else:
        save_heads(heads, folder, base_id)
