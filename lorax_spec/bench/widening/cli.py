"""``lorax-spec bench widen``: the options, and nothing that needs torch before it begins."""

from __future__ import annotations

import enum
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lorax_spec.bench.widening.shape import PRESETS, Preset, Variant
from lorax_spec.errors import LoraxSpecError


class Stored(enum.StrEnum):
    """What weights are kept in."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


Size = Annotated[int | None, typer.Option(min=1, help="Instead of the shape's.")]


def widen(
    output: Annotated[Path, typer.Option(help="New folder for base/ and adapters/<name>/.")],
    model_id: Annotated[
        Path | None, typer.Option(help="Folder of a small Llama; default: the embedded base.")
    ] = None,
    shape: Annotated[Preset, typer.Option(help="Sizes to widen to.")] = Preset.M100,
    hidden_size: Size = None,
    layers: Size = None,
    intermediate_size: Size = None,
    heads: Size = None,
    kv_heads: Size = None,
    head_dim: Size = None,
    variant: Annotated[
        Variant, typer.Option(help="Beside the small residual stream: zeros, or its copies.")
    ] = Variant.ZERO,
    adapter: Annotated[
        list[Path] | None,
        typer.Option(help="Adapter folder, any number; default: the embedded base's own."),
    ] = None,
    dtype: Annotated[Stored, typer.Option(help="Of what is written.")] = Stored.BFLOAT16,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1 ...")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
) -> None:
    """Write a large model that answers just as a small one, to measure real acceptance at a large
    model's cost: its base, LoRAs, Medusa and Hydra heads, filled up with noise.

        lorax-spec bench widen --output wide --shape 400m

        lorax-spec bench widen --output wide --layers 12 --variant tile

        lorax-spec serve --model-id wide/base --adapter-root wide/adapters
    """
    from rich.console import Console

    given = {
        "hidden_size": hidden_size,
        "layers": layers,
        "intermediate_size": intermediate_size,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
    }
    wide = replace(PRESETS[shape], **{name: size for name, size in given.items() if size})
    console = Console(stderr=True)
    try:
        import torch
        from rich.progress import Progress

        from lorax_spec import embedded
        from lorax_spec.bench.settings import Settings
        from lorax_spec.bench.widening.widen import Plan
        from lorax_spec.bench.widening.widen import widen as write

        folder = embedded.path()
        own = [folder / "adapters" / name for name in embedded.adapter_names()]
        plan = Plan(
            model_id or folder / "base",
            output,
            wide,
            adapter or ([] if model_id else own),
            variant,
            getattr(torch, dtype.value),
            device,
            seed,
        )
        began = time.perf_counter()
        with Progress(console=console, transient=True) as progress:
            made = write(plan, Settings(progress).track)
    except LoraxSpecError as error:
        console.print(f"[red]{error.message}[/red]")
        raise typer.Exit(2) from None
    for inexact in made.inexact:
        console.print(f"[yellow]exact in real arithmetic only: {inexact}[/yellow]")

    typer.echo(
        f"{made.base}: {made.parameters / 1e6:.0f}M parameters ({wide}), {made.bytes / 1e6:.0f} MB"
        f" of {dtype.value}, {len(plan.adapters)} adapters, {time.perf_counter() - began:.0f} s"
    )
