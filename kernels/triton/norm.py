"""Root mean square norm and residual sum in one pass over memory; semantics in kernels/norm.py.

One program has one row, so its sums are taken in an order that depends on the row's size and on how
wide its loads are.  Triton makes these as wide as all strides allow, and compiles anew for what it
learns of a number: so the strides of single rows, which mean nothing, are given as those of many
would be, and nothing is to be learned from the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from lorax_spec.kernels.triton.variant import ELEMENTS, POINTERS, Variant

#: Rows longer than this do not fit a program's registers.
LONGEST_ROW = 32_768


@triton.jit(do_not_specialize=["inner"])
def _rms_norm(
    x,
    residual,
    weight,
    total,
    normed,
    size,
    inner,
    outer_stride,
    inner_stride,
    residual_stride,
    epsilon,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    there = at < size
    start = row // inner * outer_stride + row % inner * inner_stride
    value = tl.load(x + start + at, mask=there, other=0.0)
    if ADD:
        other = tl.load(residual + row * residual_stride + at, mask=there, other=0.0)
        value = (value.to(tl.float32) + other.to(tl.float32)).to(value.dtype)
        tl.store(total + row * size + at, value, mask=there)
    wide = value.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(wide * wide, 0) / size + epsilon)
    rounded = (wide * inverse).to(value.dtype).to(tl.float32)
    factor = tl.load(weight + at, mask=there, other=0.0).to(tl.float32)
    tl.store(normed + row * size + at, (factor * rounded).to(value.dtype), mask=there)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Norm of each row of ``x`` [..., size], contiguous.

    Args:
        x: rows may lie apart, as those of a part of a larger product do.
        weight: [size], of the dtype of ``x``.
    """
    normed = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    # Heads of rows: the one thing with two strides that a model norms.
    parts = x.flatten(0, -3) if x.dim() > 2 else x[None]
    _launch(parts, None, weight, None, normed, epsilon)
    return normed


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum, normed) of ``residual + x``, both [..., size] and contiguous."""
    size = x.shape[-1]
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    normed = torch.empty_like(total)
    _launch(x.view(1, -1, size), residual.view(-1, size), weight, total, normed, epsilon)
    return total, normed


def _launch(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    total: torch.Tensor | None,
    normed: torch.Tensor,
    epsilon: float,
) -> None:
    """``x`` [outer, inner, size], ``residual`` [outer * inner, size]."""
    outer, inner, size = x.shape
    assert x.stride(2) == 1 and weight.dtype == x.dtype and size <= LONGEST_ROW
    assert residual is None or (residual.stride(1) == 1 and residual.dtype == x.dtype)
    if outer * inner == 0:
        return
    block = triton.next_power_of_2(size)
    _rms_norm[(outer * inner,)](
        x,
        x if residual is None else residual,
        weight,
        normed if total is None else total,
        normed,
        size,
        inner,
        x.stride(0) if outer > 1 else 0,
        x.stride(1) if inner > 1 else size,
        size if residual is None or len(residual) == 1 else residual.stride(0),
        epsilon,
        BLOCK=block,
        ADD=residual is not None,
        num_warps=_warps(block),
    )


def _warps(block: int) -> int:
    """Of 32 threads with 16 numbers each, 16 at most."""
    return max(1, min(16, block // 512))


def variants() -> Iterator[Variant]:
    """Heads and hidden states of each dtype, hidden states with a sum too."""
    for dtype in ELEMENTS:
        element = POINTERS[dtype]
        for size, add in ((128, False), (4096, False), (4096, True), (16384, True)):
            block = triton.next_power_of_2(size)
            yield Variant(
                label=f"{str(dtype).removeprefix('torch.')} {size}{' sum' if add else ''}",
                kernel=_rms_norm,
                signature={
                    **dict.fromkeys(("x", "residual", "weight", "total", "normed"), element),
                    **dict.fromkeys(
                        ("size", "inner", "outer_stride", "inner_stride", "residual_stride"), "i32"
                    ),
                    "epsilon": "fp32",
                },
                constants={"BLOCK": block, "ADD": add},
                num_warps=_warps(block),
            )
