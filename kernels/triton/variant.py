"""Kernels as they are launched, so that they can be compiled where no GPU is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import triton.language as tl
from triton import knobs

#: Whether kernels run in Triton's interpreter, on whatever tensors there are.
INTERPRETED: bool = knobs.runtime.interpret

#: What a pointer to elements of a torch type is called in a signature, and Triton's own type.
POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.bool: "*i1",
}
ELEMENTS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@dataclass(frozen=True)
class Variant:
    """One kernel with the constants that one kind of launch gives it.

    ``signature`` names the type of every runtime argument ("*bf16", "i32", "fp32"), in order;
    ``constants`` are its constexpr arguments.  ``label`` tells variants of a kernel apart.
    """

    label: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 2
    options: Mapping[str, Any] = field(default_factory=dict)
