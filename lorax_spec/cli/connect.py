"""What the commands that call a server have in common."""

from __future__ import annotations

from typing import Annotated

import typer

Target = Annotated[
    str,
    typer.Option(envvar="LORAX_SPEC_TARGET", help="The server: HOST:PORT or unix:/PATH."),
]

DEFAULT_TARGET = "localhost:50051"
