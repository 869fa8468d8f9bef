"""The product inside a gated feed-forward layer in one pass; semantics in kernels/activation.py."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from lorax_spec.kernels.triton.variant import ELEMENTS, POINTERS, Variant

BLOCK = 1024


@triton.jit
def _silu_product(gate, up, y, size, gate_stride, up_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = at < size
    z = tl.load(gate + row * gate_stride + at, mask=there, other=0.0)
    wide = z.to(tl.float32)
    activated = (wide / (1.0 + tl.exp(-wide))).to(z.dtype).to(tl.float32)
    factor = tl.load(up + row * up_stride + at, mask=there, other=0.0).to(tl.float32)
    tl.store(y + row * size + at, (activated * factor).to(z.dtype), mask=there)


def silu_product(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """``silu(gate) * up`` [..., size], contiguous.

    Args:
        gate, up: [..., size]; rows may lie apart, as halves of one product do.
    """
    size = gate.shape[-1]
    assert gate.shape == up.shape and gate.dtype == up.dtype
    assert gate.stride(-1) == up.stride(-1) == 1
    y = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    flat_gate, flat_up = gate.view(-1, size), up.view(-1, size)
    if len(flat_gate):
        _silu_product[len(flat_gate), triton.cdiv(size, BLOCK)](
            flat_gate, flat_up, y, size, flat_gate.stride(0), flat_up.stride(0), BLOCK=BLOCK
        )
    return y


def variants() -> Iterator[Variant]:
    """One of each dtype."""
    for dtype in ELEMENTS:
        yield Variant(
            label=str(dtype).removeprefix("torch."),
            kernel=_silu_product,
            signature={
                **dict.fromkeys(("gate", "up", "y"), POINTERS[dtype]),
                **dict.fromkeys(("size", "gate_stride", "up_stride"), "i32"),
            },
            constants={"BLOCK": BLOCK},
        )
