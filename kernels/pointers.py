"""Tables of addresses, by which kernels find tensors that were never stacked."""

from __future__ import annotations

from collections.abc import Iterable

import torch

#: Kernels read what a table points to in vectors of so many bytes.
ALIGNMENT = 16


def addresses(tensors: Iterable[torch.Tensor | None], device: torch.device) -> torch.Tensor:
    """int64 [n], the address of each tensor's first element, 0 of None.

    Whoever holds the table keeps the tensors alive.  Made when tensors come or go and not within
    a step, since it is a copy from the host.

    Raises:
        ValueError: a tensor is not contiguous or begins at no multiple of ``ALIGNMENT`` bytes.
    """
    found = []
    for tensor in tensors:
        if tensor is not None and not tensor.is_contiguous():
            raise ValueError(f"shape {tuple(tensor.shape)}, strides {tensor.stride()}")
        found.append(0 if tensor is None else tensor.data_ptr())
        if found[-1] % ALIGNMENT:
            raise ValueError(f"address {found[-1]:#x} is no multiple of {ALIGNMENT}")
    return torch.tensor(found, dtype=torch.int64).to(device)
