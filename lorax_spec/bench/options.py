"""Options that the commands of ``lorax-spec bench`` have in common, and running one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

#: Columns of a table that goes to a file.
_PAGE = 120

Quick = Annotated[bool, typer.Option("--quick", help="Few prompts, under a minute.")]
Samples = Annotated[
    int | None,
    typer.Option(
        "--prompts",
        min=1,
        help="How many prompts; of batch, exchange, never-slower: groups; coldload: loads.",
    ),
]
Seed = Annotated[int, typer.Option(help="Of the order of runs, and of what is sampled.")]
Json = Annotated[Path | None, typer.Option(help="Add what is found to this file.")]


def run(
    names: tuple[str, ...],
    quick: bool,
    samples: int | None,
    seed: int,
    json: Path | None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Measure, and show it."""
    from rich.console import Console

    from lorax_spec.bench import suite

    console = Console()
    if not console.is_terminal:
        console.width = _PAGE
    suite.run(names, console, quick=quick, samples=samples, seed=seed, json=json, options=options)
