"""``lorax-spec keys``: who may call a server."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True)


class Role(StrEnum):
    """What a key may do."""

    USER = "user"
    ADMIN = "admin"


@app.callback()
def keys() -> None:
    """Make the API keys of `lorax-spec serve --api-key-file`.

    lorax-spec keys new --name alice
    """


@app.command()
def new(
    name: Annotated[str, typer.Option(help="Whose it is: letters, digits and . _ @ -.")],
    role: Annotated[
        Role, typer.Option(help="user, or admin, who may load, unload and pin adapters too.")
    ] = Role.USER,
    file: Annotated[
        Path | None,
        typer.Option(help="Add its line to this file, and print the key alone."),
    ] = None,
) -> None:
    """Make a key: it is shown this once, and its hash goes into the server's file.

        lorax-spec keys new --role admin --name alice

        export LORAX_SPEC_API_KEY=$(lorax-spec keys new --name bob --file keys.txt)

    A running server reads the file again on SIGHUP.
    """
    from lorax_spec.router import keys as ring

    try:
        secret, key = ring.new_key(ring.Role(role.value), name)
        if file is None:
            print(f"key:  {secret}\nline: {key.line}")
            return
        if file.exists() and name in {one.name for one in ring.read_keys(file)}:
            raise ValueError(f"{file} has a key of the name {name} already")
        file.touch(0o600)  # a new file is its owner's
        with file.open("a", encoding="utf-8") as lines:
            lines.write(f"{key.line}\n")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    print(secret)
