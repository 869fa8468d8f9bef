"""``lorax-spec adapters``: what a server holds, and what a folder is."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorax_spec.cli.connect import DEFAULT_TARGET, Target, connect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lorax_spec.types import AdapterInfo

app = typer.Typer(add_completion=False, no_args_is_help=True)


class Dtype(StrEnum):
    """What adapters can be served in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


AdapterId = Annotated[str, typer.Argument(help="As requests name it, say demo/pirate.")]


@app.callback()
def adapters() -> None:
    """List, load, unload, pin and inspect adapters.

    lorax-spec adapters list

    lorax-spec adapters load demo/pirate

    lorax-spec adapters inspect ./my-adapter
    """


@app.command("list")
def list_(target: Target = DEFAULT_TARGET) -> None:
    """What the server knows: kind, state, where it lies, how large it is.

    Also when a request last began to run on it, the seconds that its load took (fetch + read +
    copy), and how many of the drafted tokens were accepted, by drafter.

    lorax-spec adapters list --target localhost:50051
    """
    with connect(target) as client:
        _table(client.list_adapters())


@app.command()
def load(
    adapter_id: AdapterId,
    target: Target = DEFAULT_TARGET,
    adapter_source: Annotated[
        str | None, typer.Option(help="Where it comes from; left out: the server's default.")
    ] = None,
    adapter_revision: Annotated[
        str | None, typer.Option(help="Its revision, where it comes from the hub.")
    ] = None,
    api_token: Annotated[
        str | None,
        typer.Option(
            envvar="LORAX_SPEC_API_TOKEN", help="What the server fetches a private one with."
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option(help="Show how far it is, and end when it is on the device.")
    ] = True,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for it.")] = 600.0,
) -> None:
    """Bring an adapter to the device before anybody asks for it.

    lorax-spec adapters load demo/pirate

    lorax-spec adapters load me/private --api-token hf_... --no-wait
    """
    from lorax_spec.cli.loading import watched

    with connect(target, timeout=timeout, api_token=api_token) as client:

        def begin() -> AdapterInfo:
            return client.load_adapter(
                adapter_id,
                adapter_source=adapter_source,
                adapter_revision=adapter_revision,
                wait=wait,
            )

        _table([watched(begin, client, adapter_id) if wait else begin()])


@app.command()
def unload(adapter_id: AdapterId, target: Target = DEFAULT_TARGET) -> None:
    """Drop an adapter; requests that run on it finish first.

    lorax-spec adapters unload demo/pirate
    """
    with connect(target) as client:
        _table([client.unload_adapter(adapter_id)])


@app.command()
def pin(adapter_id: AdapterId, target: Target = DEFAULT_TARGET) -> None:
    """Keep an adapter on the device whatever else is asked for.

    lorax-spec adapters pin demo/pirate
    """
    with connect(target) as client:
        _table([client.pin_adapter(adapter_id)])


@app.command()
def unpin(adapter_id: AdapterId, target: Target = DEFAULT_TARGET) -> None:
    """Let a pinned adapter make room again when room is short.

    lorax-spec adapters unpin demo/pirate
    """
    with connect(target) as client:
        _table([client.pin_adapter(adapter_id, pinned=False)])


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="An adapter's folder.", exists=True)],
    model_id: Annotated[
        str | None, typer.Option(help="A model that it should fit: a folder, or a hub name.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="The model's revision.")] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="What the model is served in; its own without.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")] = False,
) -> None:
    """What a folder holds and whether it can be served; needs no server.

    Ends with status 1 where something is wrong with it.  Without `--model-id` only what would be
    wrong for every model is found.

        lorax-spec adapters inspect ./my-adapter --model-id ./llama
    """
    from lorax_spec.cli.inspection import look_at, show

    found = look_at(folder, model_id, revision, dtype.value if dtype else None)
    show(found, as_json)
    raise typer.Exit(1 if found.faults else 0)


def _table(infos: Iterable[AdapterInfo]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("adapter", "kind", "state", "tier", "MiB", "rank", "heads", "in use", "pinned")
    for heading in ("last used", "load s", "accepted"):
        table.add_column(heading)
    for one in infos:
        table.add_row(
            one.adapter_id,
            one.kind,
            f"{one.state}: {one.error}" if one.error else one.state,
            one.tier,
            f"{one.bytes / 2**20:.2f}",
            str(one.rank or ""),
            str(one.medusa_heads or ""),
            str(one.in_use or ""),
            "yes" if one.pinned else "",
            time.strftime("%F %T", time.localtime(one.last_used)) if one.last_used else "",
            " + ".join(f"{spent:.3f}" for spent in _stages(one)),
            ", ".join(
                f"{name} {counts.accepted_tokens}/{counts.drafted_tokens}"
                for name, counts in sorted(one.drafters.items())
            ),
        )
    Console().print(table)


def _stages(info: AdapterInfo) -> tuple[float, ...]:
    """What fetching, reading and copying took; nothing where it was not loaded yet."""
    stages = (info.load.fetch, info.load.read, info.load.copy)
    return stages if any(stages) else ()
