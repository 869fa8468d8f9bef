"""The benchmark of auto against every single drafter."""

from __future__ import annotations

import pytest
from rich.progress import Progress
from typer.testing import CliRunner

from lorax_spec.bench.auto import Plan, measure
from lorax_spec.bench.cli import app
from lorax_spec.bench.settings import Settings


def test_a_workload_that_there_is_not() -> None:
    done = CliRunner().invoke(app, ["auto", "--workloads", "mix,poems"])
    assert done.exit_code == 2
    assert "no workload poems; there are rename, edit," in done.output
    assert "mix" in done.output


@pytest.mark.slow
def test_what_is_asked_for_is_measured() -> None:
    """A mix beside one workload, at one size of batch and one temperature."""
    plan = Plan(batches=(2,), workloads=("rename", "mix"), temperatures=(0.0,))
    with Progress(disable=True) as progress:
        report = measure(Settings(progress, quick=True, samples=1), plan)
    assert [(row["workload"], row["batch"]) for row in report.rows] == [("rename", 2), ("mix", 2)]
    for row in report.rows:
        assert row["best single"] in ("prompt_lookup", "hydra", "medusa", "lookahead")
        assert {"lookup", "hydra", "medusa", "lookahead", "auto"} <= row.keys()
    assert [check.promise for check in report.checks] == [
        "workloads where auto is 3 % behind, temperature 0",
        "auto by the best single drafter, mix, 2 at a time, temperature 0",
    ]
