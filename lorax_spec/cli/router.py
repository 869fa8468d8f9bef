"""``lorax-spec router``: the process that speaks text."""

from __future__ import annotations

from typing import Annotated

import typer

from lorax_spec.cli.options import with_options
from lorax_spec.config import ServeOptions, Side

app = typer.Typer(add_completion=False)


@app.command()
@with_options(Side.ROUTER)
def router(
    options: ServeOptions,
    worker: Annotated[
        list[str],
        typer.Option(
            envvar="LORAX_SPEC_WORKER", help="Address of a worker; repeat it for more of them."
        ),
    ],
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Serve gRPC and HTTP in front of workers that run already; needs no torch.

    Prints `ready grpc=HOST:PORT http=HOST:PORT` when a worker has answered.

        lorax-spec worker --model-id ./llama --listen 127.0.0.1:6000
        lorax-spec router --worker 127.0.0.1:6000
    """
    from lorax_spec.cli import logs
    from lorax_spec.cli.orphan import end_with_parent
    from lorax_spec.router.arrival import log_fields
    from lorax_spec.router.server import RouterConfig, serve_router

    logs.configure("router", json_output=options.json_output, context=log_fields)
    if supervised:
        end_with_parent()
    config = RouterConfig(
        workers=tuple(worker),
        host=options.host,
        grpc_port=options.grpc_port,
        http_port=options.port,
        uds=options.uds,
        max_concurrent_requests=options.max_concurrent_requests,
        adapter_id=options.adapter_id,
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        tls_ca=options.tls_ca,
        api_key_file=options.api_key_file,
        cors_origins=options.cors_origin,
        max_request_bytes=options.max_request_bytes,
        otlp_endpoint=options.otlp_endpoint,
        drain_timeout=options.drain_timeout,
    )
    try:
        status = serve_router(
            config, lambda grpc, http: print(f"ready grpc={grpc} http={http}", flush=True)
        )
    except (ValueError, OSError, RuntimeError) as error:
        raise typer.BadParameter(str(error)) from error
    raise typer.Exit(status)
