"""What the commands that call a server have in common."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lorax_spec.client import Client

Target = Annotated[
    str,
    typer.Option(
        envvar="LORAX_SPEC_TARGET",
        help="The server: HOST:PORT or unix:/PATH.  Its API key is read from LORAX_SPEC_API_KEY,"
        " and the authority of its certificate, where it speaks TLS, from the file that"
        " LORAX_SPEC_SERVER_CA names.",
    ),
]

DEFAULT_TARGET = "localhost:50051"


def connect(target: str, **options: Any) -> Client:
    """A client with what the environment says of this caller."""
    from lorax_spec.client import Client

    return Client(
        target,
        api_key=os.environ.get("LORAX_SPEC_API_KEY") or None,
        tls_ca=os.environ.get("LORAX_SPEC_SERVER_CA") or None,
        **options,
    )
