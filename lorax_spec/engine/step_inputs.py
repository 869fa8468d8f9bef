"""Tensors of a step that lie in one buffer: one copy to the device fills them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch

#: Name -> (dtype, shape).
Shapes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]

#: Every tensor begins at a multiple of so many bytes.
_ALIGNMENT = 16


class StepInputs:
    """Tensors that keep their addresses, as captured graphs need them.

    They are written on the host, by ``fill``, and sent together.  What is sent must not be written
    anew before the device has taken it; a step that reads its results has waited for that.
    """

    def __init__(self, shapes: Shapes, device: torch.device) -> None:
        sizes = {name: prod(shape) * dtype.itemsize for name, (dtype, shape) in shapes.items()}
        starts: dict[str, int] = {}
        total = 0
        for name, size in sizes.items():
            starts[name] = total
            total += -(-size // _ALIGNMENT) * _ALIGNMENT
        pinned = device.type == "cuda"
        self._host = torch.zeros(total, dtype=torch.uint8, pin_memory=pinned)
        self._device = self._host if device.type == "cpu" else self._host.to(device)

        def views(buffer: torch.Tensor) -> dict[str, torch.Tensor]:
            return {
                name: buffer[starts[name] : starts[name] + sizes[name]].view(dtype).view(shape)
                for name, (dtype, shape) in shapes.items()
            }

        self._fields, self._sent = views(self._host), views(self._device)

    def fill(self, name: str, values: Sequence[float] | torch.Tensor, pad: int = 0) -> None:
        """Write the first of the tensor's numbers, and ``pad`` into the others."""
        field = self._fields[name].flatten()
        given = torch.as_tensor(values, dtype=field.dtype)
        field[: len(given)] = given
        field[len(given) :] = pad

    def fill_rows(self, name: str, rows: Sequence[Sequence[int]]) -> None:
        """Write the beginnings of a matrix's rows, and leave the rest as it is."""
        field = self._fields[name]
        for index, values in enumerate(rows):
            field[index, : len(values)] = torch.as_tensor(values, dtype=field.dtype)

    def send(self) -> None:
        """Let the device have what was written."""
        if self._device is not self._host:
            self._device.copy_(self._host, non_blocking=True)

    def __getitem__(self, name: str) -> torch.Tensor:
        """The tensor on the device."""
        return self._sent[name]
