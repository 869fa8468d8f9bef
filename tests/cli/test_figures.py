"""The table of what was drafted and saved."""

from __future__ import annotations

import io

from rich.console import Console

from lorax_spec.cli.figures import figures
from lorax_spec.types import (
    Details,
    DrafterCounts,
    FinishReason,
    SpeculationDetails,
    Timings,
)


def printed(drafters: dict[str, DrafterCounts], seed: int | None = None) -> list[str]:
    """Its lines, without the spaces that align them."""
    counts = SpeculationDetails(99, 60, 40, drafters)
    details = Details(FinishReason.LENGTH, 5, 100, 60, seed, (), (), counts, Timings(total=2.5))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(figures(details))
    return [" ".join(line.split()) for line in console.export_text().splitlines()]


def test_by_drafter_and_by_depth() -> None:
    assert printed(
        {
            "prompt_lookup": DrafterCounts(5, 0, (3, 2), (0, 0)),
            "medusa": DrafterCounts(120, 60, (40, 40, 40), (30, 20, 10)),
        },
        seed=7,
    ) == [
        "guessed by tokens ahead drafted accepted share",
        "medusa all 120 60 50%",
        "1 40 30 75%",
        "2 40 20 50%",
        "3 40 10 25%",
        "prompt_lookup all 5 0 0%",
        "1 3 0 0%",
        "2 2 0 0%",
        "100 tokens in 40 forward passes, 2.50 a pass, 2.50 s, seed 7",
    ]


def test_deep_guesses_share_a_row() -> None:
    deep = DrafterCounts(120, 66, tuple([10] * 12), (*range(11, 0, -1),))
    assert printed({"prompt_lookup": deep})[-3:-1] == [
        "8 10 4 40%",
        "9+ 40 6 15%",
    ]


def test_without_a_guess_there_is_no_table() -> None:
    (line,) = printed({})
    assert line.startswith("100 tokens")
