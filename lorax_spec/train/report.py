"""Tables for people: what the heads foresee, and what that would save."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.table import Table

from lorax_spec.train.acceptance import Acceptance
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
