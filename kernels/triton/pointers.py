"""Addresses of tables as pointers."""

from __future__ import annotations

import triton
import triton.language as tl

from lorax_spec.kernels.pointers import ALIGNMENT

_ALIGNMENT = tl.constexpr(ALIGNMENT)


@triton.jit
def elements(address, ELEMENT: tl.constexpr):
    """What ``pointers.addresses`` noted; that it is aligned lets loads be whole vectors."""
    return tl.multiple_of(address.to(tl.pointer_type(ELEMENT)), _ALIGNMENT)
