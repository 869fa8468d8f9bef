"""What the demo shows: streams as they come, then a table."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lorax_spec.cli.colours import painted
from lorax_spec.types import Response, Token

#: Lines of each stream that fit beside the others.
_LINES = 6

_FRAME = 0.1  # seconds


@dataclass(frozen=True)
class Outcome:
    """One request with speculation and without; ``seconds`` from sending to the last token."""

    name: str
    on: Response
    off: Response
    seconds_on: float
    seconds_off: float

    @property
    def same_text(self) -> bool:
        return self.on.generated_text == self.off.generated_text


class Screen:
    """Streams side by side on a terminal; elsewhere each text when it is whole."""

    def __init__(self, console: Console, names: Iterable[str]) -> None:
        self._console = console
        self._texts: dict[str, list[Token]] = {name: [] for name in names}
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def add(self, name: str, token: Token) -> None:
        self._texts[name].append(token)
        if self._console.is_terminal and time.monotonic() - self._drawn > _FRAME:
            self._drawn = time.monotonic()
            self._live.update(self._panels(), refresh=True)

    def finish(self, name: str) -> None:
        if not self._console.is_terminal:
            self._console.rule(name, align="left", characters="-")
            self._console.print(painted(self._texts[name]), soft_wrap=True)

    def _panels(self) -> Group:
        panels = []
        for name, tokens in self._texts.items():
            lines = painted(tokens).split("\n", allow_blank=True)
            shown = Text("\n").join(lines[-_LINES:])
            panels.append(Panel(shown, title=name, title_align="left", height=_LINES + 2))
        return Group(*panels)


def table(outcomes: Iterable[Outcome]) -> Table:
    """One row a request."""
    view = Table()
    view.add_column("request", no_wrap=True)
    for heading in ("tokens", "forward passes", "tokens per forward", "speed"):
        view.add_column(heading, justify="right")
    view.add_column("same text")
    for one in outcomes:
        details = one.on.details
        passes = details.speculation.forward_passes
        view.add_row(
            one.name,
            str(details.generated_tokens),
            str(passes),
            f"{details.generated_tokens / max(1, passes):.2f}",
            f"{one.seconds_off / one.seconds_on:.2f}x",
            "yes" if one.same_text else "[bold red]NO[/]",
        )
    return view
