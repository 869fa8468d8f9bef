"""``lorax-spec demo``: serve the embedded model, talk to it, show what speculation saved."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from lorax_spec.cli.demo_requests import Case
    from lorax_spec.cli.demo_screen import Outcome, Screen
    from lorax_spec.client import AsyncClient
    from lorax_spec.types import Response

app = typer.Typer(add_completion=False)


@app.command()
def demo() -> None:
    """Serve the embedded model on free ports and show what speculation saves.

    Sends eight requests at once, each drafted in another way, and the same with speculation off.
    Ends with a table, and with status 0 only if every text is the same both times.

        lorax-spec demo
    """
    import tempfile

    from rich.console import Console

    console = Console(highlight=False)
    with tempfile.NamedTemporaryFile(prefix="lorax-spec-", suffix=".log") as logs:
        try:
            outcomes = asyncio.run(_serve_and_ask(console, logs))
        except ServerEndedError as error:
            console.print(Path(logs.name).read_text(errors="replace")[-4000:], markup=False)
            console.print(f"[bold red]the server ended with status {error.status}[/]")
            raise typer.Exit(error.status or 1) from None
    _conclude(console, outcomes)
    if not all(one.same_text for one in outcomes):
        raise typer.Exit(1)


class ServerEndedError(Exception):
    """The server is gone before the demo is over."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


async def _serve_and_ask(console: Console, logs: IO[bytes]) -> list[Outcome]:
    from lorax_spec.cli.supervisor import Supervisor
    from lorax_spec.config import ServeOptions

    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    options = ServeOptions(port=0, grpc_port=0, speculative_tokens=8)
    supervisor = Supervisor(options, lambda grpc, http: ready.set_result(grpc), logs)
    server = asyncio.create_task(supervisor.serve())
    asking = asyncio.create_task(_ask(console, ready))
    await asyncio.wait({server, asking}, return_when=asyncio.FIRST_COMPLETED)
    if server.done():
        asking.cancel()
        raise ServerEndedError(server.result())
    supervisor.stop()
    await server
    return asking.result()


async def _ask(console: Console, ready: asyncio.Future[str]) -> list[Outcome]:
    from lorax_spec.cli.demo_requests import cases
    from lorax_spec.cli.demo_screen import Outcome, Screen
    from lorax_spec.client import AsyncClient

    with console.status("starting a router and a worker with the embedded model"):
        target = await ready
    console.print(f"serving on {target}")
    asked = cases()
    names = [case.name for case in asked]
    async with AsyncClient(target, timeout=600) as client:
        with console.status("loading the adapters"):
            await asyncio.gather(*(_warm(client, case) for case in asked))
        with console.status(f"{len(asked)} requests at once, speculation off"):
            off = await asyncio.gather(*(_run(client, case, None) for case in asked))
        console.print(f"{len(asked)} requests at once, speculation on:")
        with Screen(console, names) as screen:
            on = await asyncio.gather(*(_run(client, case, screen) for case in asked))
    return [
        Outcome(name, first, second, seconds_on, seconds_off)
        for name, (first, seconds_on), (second, seconds_off) in zip(names, on, off, strict=True)
    ]


async def _warm(client: AsyncClient, case: Case) -> None:
    """Loading an adapter is not what the demo measures."""
    await client.generate(**{**case.options(speculate=True), "max_new_tokens": 1})


async def _run(client: AsyncClient, case: Case, screen: Screen | None) -> tuple[Response, float]:
    """The answer and its seconds; with a screen, with speculation and shown."""
    from lorax_spec.types import Response

    started = time.perf_counter()
    options = case.options(speculate=screen is not None)
    async for event in client.generate_stream(**options):
        if screen is not None and event.token is not None:
            screen.add(case.name, event.token)
        if event.details is not None:
            seconds = time.perf_counter() - started
            response = Response(event.generated_text or "", event.details)
    if screen is not None:
        screen.finish(case.name)
    return response, seconds


def _conclude(console: Console, outcomes: list[Outcome]) -> None:
    from rich.text import Text

    from lorax_spec.cli.colours import colour
    from lorax_spec.cli.demo_screen import table

    tokens = sum(one.on.details.generated_tokens for one in outcomes)
    slowest_on = max(one.seconds_on for one in outcomes)
    slowest_off = max(one.seconds_off for one in outcomes)
    console.print(table(outcomes))
    guessers = {
        "prompt_lookup": "prompt lookup",
        "medusa": "Medusa heads",
        "hydra": "Hydra heads",
        "grammar": "the grammar",
    }
    names = Text(", ").join(Text(name, style=colour(key)) for key, name in guessers.items())
    console.print("coloured: verified guesses of", names, "- the rest is the model's own.")
    console.print(
        f"all together: {tokens / slowest_on:.0f} tokens/s with speculation,"
        f" {tokens / slowest_off:.0f} without"
    )
