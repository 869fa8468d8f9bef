"""How far an adapter is while one waits for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorax_spec.client import Client
    from lorax_spec.types import AdapterInfo

#: Seconds between two looks.
_INTERVAL = 0.25


def watched(load: Callable[[], AdapterInfo], client: Client, adapter_id: str) -> AdapterInfo:
    """What ``load`` gives; meanwhile the adapter's state stands on stderr, where that is a
    terminal.

    Raises what ``load`` raises.
    """
    from rich.console import Console

    console = Console(stderr=True)
    with ThreadPoolExecutor(1) as threads, console.status(f"{adapter_id}: asking") as status:
        loading: Future[AdapterInfo] = threads.submit(load)
        while not wait([loading], _INTERVAL).done:
            status.update(f"{adapter_id}: {_state(client, adapter_id)}")
    return loading.result()


def _state(client: Client, adapter_id: str) -> str:
    from lorax_spec.errors import LoraxSpecError

    try:
        infos = [one for one in client.list_adapters() if one.adapter_id == adapter_id]
    except LoraxSpecError as error:  # the load itself says what is wrong
        return error.message
    if not infos:
        return "looked up"
    info = infos[0]
    return f"{info.state}, {info.bytes / 2**20:.1f} MiB"
