"""``lorax-spec worker``: the process that holds the model."""

from __future__ import annotations

from typing import Annotated

import typer

from lorax_spec.cli.options import with_options
from lorax_spec.config import ServeOptions, Side, adapter_ids

app = typer.Typer(add_completion=False)


@app.command()
@with_options(Side.WORKER)
def worker(
    options: ServeOptions,
    listen: Annotated[
        str,
        typer.Option(
            envvar="LORAX_SPEC_LISTEN", help="HOST:PORT (port 0: a free one) or unix:/PATH."
        ),
    ] = "127.0.0.1:0",
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Hold a model, run its requests; routers connect to it.

    It speaks token ids, not text, and trusts who connects: keep it on a private address.  Prints
    `ready ADDRESS` when it is up.

        lorax-spec worker --model-id ./llama --listen 127.0.0.1:6000
        lorax-spec router --worker 127.0.0.1:6000
    """
    from lorax_spec.cli import logs
    from lorax_spec.cli.engine import engine_config
    from lorax_spec.cli.orphan import end_with_parent

    logs.configure("worker", json_output=options.json_output)
    if supervised:
        end_with_parent()
    config = engine_config(options)

    from lorax_spec.engine.core import EngineCore
    from lorax_spec.worker.preloading import PreloadError, preload
    from lorax_spec.worker.server import WorkerConfig, serve_worker

    def core() -> EngineCore:
        core = EngineCore.load(config)
        preload(core, adapter_ids(options.preloaded_adapter_ids))
        return core

    try:
        status = serve_worker(
            WorkerConfig(listen, otlp_endpoint=options.otlp_endpoint),
            core,
            lambda address: print(f"ready {address}", flush=True),
        )
    except PreloadError as error:
        raise typer.BadParameter(f"--preloaded-adapter-ids: {error}") from error
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    raise typer.Exit(status)
