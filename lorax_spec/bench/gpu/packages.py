"""Which packages are not there, and what does not run without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Package:
    """``vital``: without it nothing runs."""

    name: str
    without: str
    vital: bool = False

    def __str__(self) -> str:
        return f"missing: {self.name}: {self.without}"


#: What the engine and the command line import at once.
_VITAL = ("torch", "transformers", "peft", "safetensors", "numpy", "psutil", "rich", "typer")
_ALL = (
    *(Package(name, "nothing can run", vital=True) for name in _VITAL),
    Package("triton", "no kernel of ours runs or is measured"),
    Package("matplotlib", "no plots"),
    Package("pytest", "the GPU tests do not run"),
    Package("hypothesis", "the GPU tests do not run"),
    Package("pytest_timeout", "the GPU tests have the limit of all together only"),
    Package("xgrammar", "tests of structured output do not run"),
    Package("grpc", "tests of servers do not run"),
    Package("grpc_status", "tests of servers do not run"),
    Package("flash_attn", "it is not compared (nothing here needs it)"),
)


def missing() -> Sequence[Package]:
    """Looked for, not imported."""
    return [package for package in _ALL if find_spec(package.name) is None]
