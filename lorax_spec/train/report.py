"""Tables for people: what the heads foresee, and what that would save."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from lorax_spec.train.acceptance import Acceptance
from lorax_spec.train.calibrate import Losses
from lorax_spec.train.evaluate import TOP, HeldOut


def accuracy_table(figures: HeldOut) -> Table:
    """Loss and top-k accuracy, one row for the base's next token and one per head."""
    table = Table(
        title="held-out text: percent right among the first k guesses",
        box=SIMPLE,
        padding=(0, 0, 0, 1),
    )
    for column in ("", "loss", *(str(k) for k in range(1, TOP + 1))):
        table.add_column(column, justify="right", no_wrap=True)
    for row, (loss, top) in enumerate(zip(figures.loss, figures.top, strict=True)):
        name = "base" if row == 0 else f"head {row}"
        table.add_row(name, f"{loss:.2f}", *(f"{100 * share:.1f}" for share in top))
    return table


def calibration_table(content: dict[str, Any], losses: Sequence[Losses]) -> Table:
    """Every head's first guesses that came true, and what its sampled guesses say of the model."""
    table = Table(
        title="calibration, on the model's own text: first guesses right, and log-loss (nats)",
        box=SIMPLE,
    )
    for column in ("", "greedy", "sampled", "as they are", "sharpened", "with the noise"):
        table.add_column(column, justify="right")
    accepted = content["accepted"]
    for k, loss in enumerate(losses):
        first = (f"{100 * accepted[mode][k][0]:.1f}" for mode in ("greedy", "sampled"))
        figures = (f"{loss[name]:.2f}" for name in ("raw", "plain", "coupled"))
        table.add_row(f"head {k + 1}", *first, *figures)
    return table


def acceptance_table(found: Acceptance, temperature: float) -> Table:
    """Accepted drafts and tokens per verification step, by draft shape."""
    left_out = f", {found.looping} loops left out" if found.looping else ""
    table = Table(
        title=f"the model's own text at temperature {temperature:g}: "
        f"{found.outputs} outputs{left_out}",
        box=SIMPLE,
        min_width=70,
    )
    for column in ("draft", "accepted per step", "tokens per step"):
        table.add_column(column, justify="right")
    for shape, accepted in found.per_step.items():
        table.add_row(shape, f"{accepted:.2f}", f"{accepted + 1:.2f}")
    return table
