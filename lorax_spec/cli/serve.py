"""``lorax-spec serve``: a router and its worker on this machine."""

from __future__ import annotations

import asyncio

import typer

from lorax_spec.cli.options import with_options
from lorax_spec.config import ServeOptions, Side

app = typer.Typer(add_completion=False)


@app.command()
@with_options(Side.WORKER | Side.ROUTER | Side.SUPERVISOR)
def serve(options: ServeOptions) -> None:
    """Serve a model and any number of its adapters.

    Starts a worker, which holds the model, and a router in front of it; restarts what dies.
    Prints one line, `ready grpc=HOST:PORT http=HOST:PORT`, when both are up; logs go to stderr.
    SIGTERM and Ctrl-C let running requests finish first.

    The embedded demo model, with prompt lookup:

        lorax-spec serve --speculative-tokens 8

    A model of your own, with the adapters in a folder:

        lorax-spec serve --model-id ./llama --adapter-root ./adapters --adapter-id mine
    """
    from lorax_spec.cli import logs
    from lorax_spec.cli.supervisor import Supervisor

    async def run() -> int:
        return await Supervisor(options, _announce).serve()

    logs.configure("serve", json_output=options.json_output)
    raise typer.Exit(asyncio.run(run()))


def _announce(grpc: str, http: str) -> None:
    print(f"ready grpc={grpc} http={http}", flush=True)
