"""Slots: where kernels find the LoRAs that the rows of a step run on."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lorax_spec.adapters.weights import INPUT, OUTPUT, LoraModule, LoraWeights
from lorax_spec.kernels.lora_rows import Grouping
from lorax_spec.kernels.pointers import addresses
from lorax_spec.kernels.triton.lora import LoraTables, add_lora

#: The smallest bound of ranks; it doubles until the ranks at hand are below it.
_LEAST_RANK = 16


def fits_slots(lora: LoraWeights) -> bool:
    """Whether it is nothing but low-rank updates of inner layers."""
    return not lora.changes and INPUT not in lora.modules and OUTPUT not in lora.modules


class AdapterSlots:
    """Tables of addresses by module and slot, of the LoRAs that came into a step last.

    A LoRA keeps its slot until another needs it; a slot does not keep a LoRA's memory.
    """

    def __init__(self, paths: Sequence[str], slots: int, device: torch.device) -> None:
        """``paths``: of all modules that a LoRA may change."""
        self._paths = tuple(paths)
        self._device = device
        self._count = slots
        self._free = list(range(slots))[::-1]
        #: Slots by the identity of their LoRA, the one that was used least recently first.
        self._slots: OrderedDict[int, int] = OrderedDict()
        self._alive: dict[int, weakref.ref[LoraWeights]] = {}
        shape = (len(self._paths), slots)
        self._a, self._b = (torch.zeros(shape, dtype=torch.int64, device=device) for _ in "ab")
        self._ranks = torch.zeros(shape, dtype=torch.int32, device=device)
        self._scales = torch.zeros(shape, dtype=torch.float32, device=device)
        self._changed: set[str] = set()
        self._most_rank = _LEAST_RANK
        self._tables: dict[str, LoraTables] = {}

    @property
    def tables(self) -> Mapping[str, LoraTables]:
        """By path, of the modules that any LoRA so far has changed.

        Never changed itself: with a further module or a larger rank comes another mapping.
        """
        return self._tables

    def slots_of(self, loras: Sequence[LoraWeights]) -> list[int]:
        """A slot of its own for each.  Raises ValueError where there are fewer."""
        if len(loras) > self._count:
            raise ValueError(f"{len(loras)} adapters in a step, and {self._count} slots")
        for lora in loras:
            if id(lora) in self._slots:
                self._slots.move_to_end(id(lora))
        return [self._slot_of(lora, loras) for lora in loras]

    def _slot_of(self, lora: LoraWeights, needed: Iterable[LoraWeights]) -> int:
        if id(lora) in self._slots:
            return self._slots[id(lora)]
        if not self._free:
            kept = {id(one) for one in needed}
            self._forget(next(key for key in self._slots if key not in kept))
        slot, key = self._free.pop(), id(lora)
        self._slots[key] = slot
        # An identity may be given anew as soon as its object is gone.
        self._alive[key] = weakref.ref(lora, lambda _: self._forget(key))
        self._write(slot, [lora.modules.get(path) for path in self._paths])
        if lora.rank > self._most_rank or not self._changed.issuperset(lora.modules):
            self._grow(lora)
        return slot

    def _forget(self, key: int) -> None:
        if self._alive.pop(key, None) is not None:
            self._free.append(self._slots.pop(key))

    def _write(self, slot: int, modules: list[LoraModule | None]) -> None:
        """The slot's columns."""
        device = self._device
        self._a[:, slot] = addresses((m.a if m else None for m in modules), device)
        self._b[:, slot] = addresses((m.b if m else None for m in modules), device)
        ranks = [m.rank if m else 0 for m in modules]
        self._ranks[:, slot] = torch.tensor(ranks, dtype=torch.int32).to(device)
        scales = [m.scale if m else 0.0 for m in modules]
        self._scales[:, slot] = torch.tensor(scales).to(device)

    def _grow(self, lora: LoraWeights) -> None:
        self._changed |= lora.modules.keys()
        while self._most_rank < lora.rank:
            self._most_rank *= 2
        self._tables = {
            path: LoraTables(
                self._a[i : i + 1],
                self._b[i : i + 1],
                self._ranks[i : i + 1],
                self._scales[i : i + 1],
                self._most_rank,
            )
            for i, path in enumerate(self._paths)
            if path in self._changed
        }


@dataclass(frozen=True)
class SlotRows:
    """Rows whose LoRAs have slots, grouped by them."""

    tables: Mapping[str, LoraTables]
    grouping: Grouping
    changes_input: bool = False

    def adapt(self, name: str, base: nn.Module, y: torch.Tensor, x: torch.Tensor) -> None:
        tables = self.tables.get(name)
        if tables is not None:
            flat_y, flat_x = y.view(-1, y.shape[-1]), x.reshape(-1, x.shape[-1])
            add_lora([flat_y], flat_x, tables, self.grouping)

    def adapt_embedding(
        self, name: str, ids: torch.Tensor, y: torch.Tensor, factor: torch.Tensor | float
    ) -> None:
        """Adapters of the embeddings have no slots."""
