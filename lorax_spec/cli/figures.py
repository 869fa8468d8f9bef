"""What speculation drafted and saved, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lorax_spec.cli.colours import colour
from lorax_spec.types import Details, DrafterCounts

#: Deeper guesses share a row.
_DEPTHS = 8


def figures(details: Details) -> Group:
    """Drafted and accepted by drafter, and by how many tokens ahead the guess was; then the sum."""
    counts = details.speculation
    passes = max(1, counts.forward_passes)
    seed = "" if details.seed is None else f", seed {details.seed}"
    total = Text(
        f"{details.generated_tokens} tokens in {counts.forward_passes} forward passes, "
        f"{details.generated_tokens / passes:.2f} a pass, {details.timings.total:.2f} s{seed}"
    )
    return Group(_table(details), total) if counts.drafters else Group(total)


def _table(details: Details) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("guessed by", no_wrap=True)
    for heading in ("tokens ahead", "drafted", "accepted", "share"):
        table.add_column(heading, justify="right")
    for name, counts in sorted(details.speculation.drafters.items()):
        row = _row("all", counts.drafted_tokens, counts.accepted_tokens)
        table.add_row(Text(name, style=colour(name)), *row)
        for row in _by_depth(counts):
            table.add_row("", *row, style="dim")
    return table


def _by_depth(counts: DrafterCounts) -> Iterator[tuple[str, str, str, str]]:
    drafted, accepted = _folded(counts.drafted_by_depth), _folded(counts.accepted_by_depth)
    for depth, many in enumerate(drafted):
        name = str(depth + 1) if depth < _DEPTHS else f"{_DEPTHS + 1}+"
        yield _row(name, many, accepted[depth] if depth < len(accepted) else 0)


def _folded(by_depth: Sequence[int]) -> list[int]:
    deeper = by_depth[_DEPTHS:]
    return [*by_depth[:_DEPTHS], *([sum(deeper)] if deeper else [])]


def _row(name: str, drafted: int, accepted: int) -> tuple[str, str, str, str]:
    share = f"{accepted / drafted:.0%}" if drafted else "-"
    return name, str(drafted), str(accepted), share
