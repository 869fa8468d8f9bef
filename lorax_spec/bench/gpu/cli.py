"""``lorax-spec bench gpu-check``: the options, and nothing that needs torch before it begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lorax_spec.bench.gpu.sizes import Target
from lorax_spec.bench.widening.shape import Variant

_PAGE = 180


def gpu_check(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="On the CPU, tiny: proves that the script is whole.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder for JSON, table and plots.")] = Path(
        "build/gpu-check"
    ),
    minutes: Annotated[
        float, typer.Option(min=0.5, max=60.0, help="For everything; parts are cut to fit.")
    ] = 9.0,
    shape: Annotated[
        Target | None, typer.Option(help="What the embedded model is widened to; default: 8b.")
    ] = None,
    variant: Annotated[
        Variant, typer.Option(help="Beside the small residual stream: zeros, or its copies.")
    ] = Variant.ZERO,
    seed: Annotated[int, typer.Option(help="Of noise and orders.")] = 0,
) -> None:
    """Prove and measure on one GPU: tests, kernels, steps, adapters, speculation, beside
    transformers.  Needs no network.

    Figures come beside their targets, with the table last. Ends with status 1 where a part failed
    or a test did; a target that was missed is a figure, not a failure.

        lorax-spec bench gpu-check --output figures

        lorax-spec bench gpu-check --dry-run
    """
    if dry_run:  # before the first kernel is imported
        os.environ.setdefault("TRITON_INTERPRET", "1")
    import torch
    from rich.console import Console

    from lorax_spec.bench.gpu.check import Wanted, check

    if not dry_run and not torch.cuda.is_available():
        typer.echo("torch finds no CUDA device here; --dry-run needs none", err=True)
        raise typer.Exit(2)
    console = Console()
    if not console.is_terminal:
        console.width = _PAGE
    target = shape or (Target.TINY if dry_run else Target.B8)
    wanted = Wanted(output, target, variant, minutes, dry_run, seed)
    findings = check(wanted, console)
    faults = [f for one in findings for f in one.figures if f.target == 0 and f.met is False]
    if any(one.error for one in findings) or faults:
        raise typer.Exit(1)


def main() -> None:
    """As ``python -m lorax_spec.bench.gpu``."""
    typer.run(gpu_check)
