"""``lorax-spec adapters``: what a server holds, and what a folder is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorax_spec.cli.connect import DEFAULT_TARGET, Target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lorax_spec.types import AdapterInfo

app = typer.Typer(add_completion=False, no_args_is_help=True)

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

    lorax-spec adapters list --target localhost:50051
    """
    from lorax_spec.client import Client

    with Client(target) as client:
        _table(client.list_adapters())


@app.command()
def load(adapter_id: AdapterId, target: Target = DEFAULT_TARGET) -> None:
    """Bring an adapter to the device before anybody asks for it.

    lorax-spec adapters load demo/pirate
    """
    from lorax_spec.client import Client

    with Client(target) as client:
        _table([client.load_adapter(adapter_id)])


@app.command()
def unload(adapter_id: AdapterId, target: Target = DEFAULT_TARGET) -> None:
    """Drop an adapter; requests that run on it finish first.

    lorax-spec adapters unload demo/pirate
    """
    from lorax_spec.client import Client

    with Client(target) as client:
        _table([client.unload_adapter(adapter_id)])


@app.command()
def pin(adapter_id: AdapterId, target: Target = DEFAULT_TARGET) -> None:
    """Keep an adapter on the device whatever else is asked for.

    lorax-spec adapters pin demo/pirate
    """
    from lorax_spec.client import Client

    with Client(target) as client:
        _table([client.pin_adapter(adapter_id)])


@app.command()
def unpin(adapter_id: AdapterId, target: Target = DEFAULT_TARGET) -> None:
    """Let a pinned adapter make room again when room is short.

    lorax-spec adapters unpin demo/pirate
    """
    from lorax_spec.client import Client

    with Client(target) as client:
        _table([client.pin_adapter(adapter_id, pinned=False)])


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="An adapter's folder.", exists=True)],
) -> None:
    """What a folder holds and whether it can be served; needs no server.

    Ends with status 1 where something is wrong with it.

        lorax-spec adapters inspect ./my-adapter
    """
    from lorax_spec.adapters.inspect import inspect as look

    found = look(folder)
    print(f"kind         {found.kind or 'none'}")
    print(f"base model   {found.base_model or 'not said'}")
    if found.rank:
        print(f"LoRA rank    {found.rank}")
    if found.medusa_heads:
        print(
            f"Medusa       v{found.medusa_version}, {found.medusa_heads} heads"
            f" of {found.medusa_layers} layers"
        )
    if found.hydra_heads:
        print(f"Hydra        {found.hydra_heads} heads of inner size {found.hydra_inner_size}")
    if found.calibrated:
        print("calibration  yes")
    if found.choices:
        print(f"static tree  {found.choices} nodes")
    print(f"size         {found.bytes / 2**20:.2f} MiB")
    for fault in found.faults:
        print(f"fault        {fault}")
    raise typer.Exit(1 if found.faults else 0)


def _table(infos: Iterable[AdapterInfo]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("adapter", "kind", "state", "tier", "MiB", "rank", "heads", "in use", "pinned")
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
        )
    Console().print(table)
