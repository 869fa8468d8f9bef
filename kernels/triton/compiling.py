"""Compiling kernels ahead of time, for a GPU that need not be there.

``python -m lorax_spec.kernels.triton.compiling`` compiles all of them for sm_90 and prints what
each takes.  It cannot run under TRITON_INTERPRET=1, where Triton builds no compilable kernels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lorax_spec.kernels.triton.variant import Variant

#: Hopper, and the most shared memory that one of its blocks may have.
SM_90 = GPUTarget("cuda", 90, 32)
SHARED_BYTES = 232_448


@dataclass(frozen=True)
class Compiled:
    """What a variant became; ``shared`` in bytes."""

    variant: Variant
    shared: int
    cubin: bytes

    @property
    def fits(self) -> bool:
        return self.shared <= SHARED_BYTES


def all_variants() -> Iterator[Variant]:
    """Of every module beside this one that has ``variants()``."""
    package = import_module("lorax_spec.kernels.triton")
    for name in sorted(info.name for info in iter_modules(package.__path__)):
        module = import_module(f"{package.__name__}.{name}")
        yield from getattr(module, "variants", tuple)()


def compiled(variant: Variant, target: GPUTarget = SM_90) -> Compiled:
    """Raises triton's CompilationError for what does not compile."""
    constants = dict(variant.constants)
    names = list(variant.kernel.arg_names)
    # As a launch finds usual tensors and sizes: loads in whole vectors take the most memory.
    divisible = [names.index(name) for name, kind in variant.signature.items() if kind[0] in "*i"]
    source = ASTSource(
        fn=variant.kernel,
        signature={**variant.signature, **dict.fromkeys(constants, "constexpr")},
        constexprs=constants,
        attrs={(index,): [["tt.divisibility", 16]] for index in divisible},
    )
    options = {
        "num_warps": variant.num_warps,
        "num_stages": variant.num_stages,
        **variant.options,
    }
    result = triton.compile(source, target=target, options=options)
    return Compiled(variant, result.metadata.shared, result.asm["cubin"])


def main() -> int:
    """Compile everything; the exit status says whether all of it fits."""
    faults = 0
    for variant in all_variants():
        found = compiled(variant)
        faults += not found.fits
        name = f"{variant.kernel.__name__} {variant.label}"
        note = "" if found.fits else f"  more than {SHARED_BYTES}"
        print(f"{name:<60} {found.shared:>7} bytes shared, {len(found.cubin):>7} of code{note}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
