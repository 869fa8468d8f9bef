"""``lorax-spec bench``: one command for each thing that is measured, and all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from lorax_spec.bench.widening.cli import widen


class _AllByDefault(TyperGroup):
    """``bench`` and ``bench --quick`` mean ``bench all``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["all", *args]
        return super().parse_args(ctx, args)


#: Columns of a table that goes to a file.
_PAGE = 120

app = typer.Typer(cls=_AllByDefault, add_completion=False)

Quick = Annotated[bool, typer.Option("--quick", help="Few prompts, under a minute.")]
Samples = Annotated[
    int | None,
    typer.Option("--prompts", min=1, help="How many prompts; of batch: groups, coldload: loads."),
]
Seed = Annotated[int, typer.Option(help="Of the order of runs, and of what is sampled.")]
Json = Annotated[Path | None, typer.Option(help="Add what is found to this file.")]


@app.callback()
def group() -> None:
    """Measure speed, acceptance and memory of the embedded model, beside transformers.

    Everything runs in pairs, in an order drawn by a seed, on one thread, and comes as a ratio with
    its 95 % interval: on a shared machine only those hold. Without a command: all of them, with
    a table of targets last.

        lorax-spec bench --quick

        lorax-spec bench single --json figures.json
    """


@app.command("all")
def everything(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """All of them, and the table of targets."""
    from lorax_spec.bench.suite import BENCHMARKS

    _run(BENCHMARKS, quick, samples, seed, json)


@app.command()
def single(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """One request at a time against transformers, without and with prompt lookup."""
    _run(("single",), quick, samples, seed, json)


@app.command()
def batch(quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None) -> None:
    """Sixteen requests at once against transformers one by one."""
    _run(("batch",), quick, samples, seed, json)


@app.command()
def acceptance(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """Tokens per forward pass of every drafter and adapter, on answers that do not loop."""
    _run(("acceptance",), quick, samples, seed, json)


@app.command()
def lookup(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """Prompt lookup against LoRAX's rule and transformers' own, and what asking it costs."""
    _run(("lookup",), quick, samples, seed, json)


@app.command()
def wallclock(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """Speculation on against off, in float32 and bfloat16."""
    _run(("wallclock",), quick, samples, seed, json)


@app.command()
def coldload(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """What eight streams notice of a cold adapter's load."""
    _run(("coldload",), quick, samples, seed, json)


@app.command()
def memory(
    quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None
) -> None:
    """Resident memory of an idle server."""
    _run(("memory",), quick, samples, seed, json)


@app.command()
def peers(quick: Quick = False, samples: Samples = None, seed: Seed = 0, json: Json = None) -> None:
    """Beside transformers, llama.cpp and OpenVINO GenAI, where they are installed."""
    _run(("peers",), quick, samples, seed, json)


app.command()(widen)


def _run(
    names: tuple[str, ...], quick: bool, samples: int | None, seed: int, json: Path | None
) -> None:
    from rich.console import Console

    from lorax_spec.bench.suite import run

    console = Console()
    if not console.is_terminal:
        console.width = _PAGE
    run(names, console, quick=quick, samples=samples, seed=seed, json=json)
