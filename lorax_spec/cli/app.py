"""The root of the command line."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from lorax_spec.errors import LoraxSpecError

#: Command -> where its typer app is, imported when it is asked for.
_COMMANDS = {
    "serve": "lorax_spec.cli.serve",
    "generate": "lorax_spec.cli.generate",
    "adapters": "lorax_spec.cli.adapters",
    "keys": "lorax_spec.cli.keys",
    "demo": "lorax_spec.cli.demo",
    "doctor": "lorax_spec.cli.doctor",
    "train": "lorax_spec.train.cli",
    "bench": "lorax_spec.bench.cli",
    "router": "lorax_spec.cli.router",
    "worker": "lorax_spec.cli.worker",
}


class _LazyGroup(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            return None
        command = typer.main.get_command(import_module(_COMMANDS[cmd_name]).app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


@app.callback()
def root() -> None:
    """Serve many fine-tunes of one language model, fast, by speculation.

    Start with `lorax-spec demo`; then `lorax-spec serve` in one terminal and
    `lorax-spec generate "def add(a, b):"` in another.  `lorax-spec doctor` says what this machine
    can run.
    """


def main() -> None:
    """Run; an error raised on purpose ends as one line on stderr and status 1."""
    try:
        app()
    except LoraxSpecError as error:
        print(f"error: {error.message}", file=sys.stderr)
        sys.exit(1)
