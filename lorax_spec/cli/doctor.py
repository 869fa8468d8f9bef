"""``lorax-spec doctor``: what this machine can run, what it cannot, and what to do."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import typer

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Finding:
    """``needed``: without it nothing can be served on this machine."""

    name: str
    ok: bool
    says: str
    needed: bool = False


@app.command()
def doctor() -> None:
    """Check this machine: one line each, ok or no, and what to do about a no.

    Ends with status 1 where the embedded model could not be served.

        lorax-spec doctor
    """
    from rich.console import Console

    console, findings = Console(highlight=False, soft_wrap=True), list(examine())
    for one in findings:
        mark = "[green]ok[/]" if one.ok else "[red]no[/]" if one.needed else "[yellow]no[/]"
        console.print(f"{mark}  {one.name:<14} ", end="")
        console.print(one.says, markup=False)
    if any(one.needed and not one.ok for one in findings):
        raise typer.Exit(1)


def examine() -> Iterator[Finding]:
    """Every check, the cheap ones first."""
    yield Finding("python", True, f"{platform.python_version()} on {platform.platform()}")
    yield from _packages()
    if find_spec("torch") is not None:
        yield from _torch()
    yield _memory()
    yield _bundle()
    for name, port in (("HTTP port", 8080), ("gRPC port", 50051)):
        yield _port(name, port)


def _packages() -> Iterator[Finding]:
    for name in ("torch", "transformers", "peft", "tokenizers", "grpcio"):
        try:
            yield Finding(name, True, version(name), needed=True)
        except PackageNotFoundError:
            advice = "missing; pip install 'lorax-spec[worker]'"
            yield Finding(name, False, advice, needed=True)


def _torch() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("threads", True, f"{torch.get_num_threads()} of torch on {cores} cores")
    has_bf16 = torch.cpu._is_avx512_bf16_supported()
    yield Finding(
        "bf16 on CPU",
        has_bf16,
        "multiplied natively" if has_bf16 else "not native; float32 is used on this processor",
    )
    if not torch.cuda.is_available():
        yield Finding("CUDA", False, _why_no_cuda(torch.version.cuda))
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        size = device.total_memory / 2**30
        yield Finding(
            f"cuda:{index}", True, f"{device.name}, {size:.0f} GiB, sm_{device.major}{device.minor}"
        )
    has_triton = find_spec("triton") is not None
    advice = "installed" if has_triton else "missing; pip install 'lorax-spec[cuda]'"
    yield Finding("triton", has_triton, advice)


def _why_no_cuda(built_for: str | None) -> str:
    if built_for is None:
        return "this torch is built without it; runs on the CPU"
    if shutil.which("nvidia-smi") is None:
        return "no NVIDIA driver found; runs on the CPU"
    return f"torch is built for CUDA {built_for} but finds no device; check nvidia-smi"


def _memory() -> Finding:
    try:
        import psutil
    except ImportError:
        return Finding("memory", False, "not known; pip install psutil")
    free = psutil.virtual_memory().available / 2**30
    return Finding("memory", free > 2, f"{free:.1f} GiB free; the embedded model takes about 1.5")


def _bundle() -> Finding:
    from lorax_spec import embedded

    weights = embedded.path() / "base" / "model.safetensors"
    names = embedded.adapter_names()
    if weights.is_file() and names:
        return Finding("embedded model", True, f"with adapters {', '.join(names)}", needed=True)
    return Finding("embedded model", False, f"not in {embedded.path()}; reinstall", needed=True)


def _port(name: str, port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Finding(name, False, f"{port}: {error.strerror}; take another, 0 is any")
    return Finding(name, True, f"{port} is free")
