"""Which tensor of a PEFT file belongs to which module, and what it is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from lorax_spec.adapters.tensor_file import StoredTensor

PREFIX = "base_model.model."

#: Longer endings first: ``.bias`` ends ``.lora_B.bias`` too.
_ROLES = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_B.bias": "b_bias",
    ".lora_embedding_A": "embedding_a",
    ".lora_embedding_B": "embedding_b",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".base_layer.weight": "base_weight",
    ".base_layer.bias": "bias",
    ".weight": "weight",
    ".bias": "bias",
}


@dataclass(frozen=True)
class Named:
    """A stored tensor with its name in the file, for complaints."""

    name: str
    stored: StoredTensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape


@dataclass(frozen=True)
class Parts:
    """What a file holds of one module.

    ``a``, ``b`` and, of embeddings, ``embedding_a``, ``embedding_b``: the low-rank update, with a
    ``b_bias``; ``magnitude``: DoRA's; ``bias``: the layer's own, trained; ``weight``: its own,
    trained (``modules_to_save``); ``base_weight``: its own as it was, which PEFT likes to save with
    embeddings.
    """

    a: Named | None = None
    b: Named | None = None
    b_bias: Named | None = None
    embedding_a: Named | None = None
    embedding_b: Named | None = None
    magnitude: Named | None = None
    base_weight: Named | None = None
    weight: Named | None = None
    bias: Named | None = None

    @property
    def low_rank(self) -> tuple[Named | None, Named | None] | None:
        """A and B, one of which may be missing; None where there is neither."""
        for pair in ((self.a, self.b), (self.embedding_a, self.embedding_b)):
            if pair != (None, None):
                return pair
        return None

    @property
    def all(self) -> tuple[Named, ...]:
        values = (getattr(self, one.name) for one in fields(self))
        return tuple(value for value in values if value is not None)


def split_name(tensor: str) -> tuple[str, str] | None:
    """(module path, role) of a tensor of this name; None where it is no such name."""
    if not tensor.startswith(PREFIX) or "\n" in tensor:
        return None
    for end, role in _ROLES.items():
        if tensor.endswith(end) and len(tensor) > len(PREFIX) + len(end):
            return tensor[len(PREFIX) : -len(end)], role
    return None


def parts(tensors: Mapping[str, StoredTensor]) -> tuple[dict[str, Parts], tuple[str, ...]]:
    """Parts by module path, in order, and the names that are none, or are there twice."""
    found: dict[str, dict[str, Named]] = {}
    others: list[str] = []
    for name, stored in tensors.items():
        split = split_name(name)
        if split is None or split[1] in found.get(split[0], ()):
            others.append(name)
        else:
            found.setdefault(split[0], {})[split[1]] = Named(name, stored)
    return {path: Parts(**found[path]) for path in sorted(found)}, tuple(others)


def rows_of(stored: StoredTensor, rows: range) -> StoredTensor:
    """Some rows of a stored tensor, which lie next to one another."""
    size = stored.nbytes // stored.shape[0]
    start = stored.start + rows.start * size
    return stored._replace(
        shape=(len(rows), *stored.shape[1:]), start=start, end=start + len(rows) * size
    )


def names(paths: Iterable[Named | None]) -> str:
    return ", ".join(one.name for one in paths if one is not None)
