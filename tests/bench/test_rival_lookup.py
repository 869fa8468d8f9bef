"""auto beside transformers' prompt lookup: at their best, and what the ratios are of."""

from __future__ import annotations

import pytest
from rich.progress import Progress
from typer.testing import CliRunner

from lorax_spec.bench.cli import app
from lorax_spec.bench.judging import Clock
from lorax_spec.bench.pairs import Run
from lorax_spec.bench.rival_lookup import against, behind, best_length, measure
from lorax_spec.bench.settings import Settings


def answered(**seconds: float) -> dict[str, Run]:
    """A request of two tokens, the processor as long at work as the clock ran."""
    named = {name.replace("_", " "): took for name, took in seconds.items()}
    return {name: Run(((1, 2),), took, took) for name, took in named.items()}


RUNS = [
    answered(auto=2.0, auto_again=2.0, lookup_5=4.0, lookup_10=3.0, lookup_24=2.5),
    answered(auto=2.0, auto_again=2.0, lookup_5=4.0, lookup_10=6.0, lookup_24=7.5),
]


def test_they_run_at_the_length_that_serves_them_best() -> None:
    assert best_length(RUNS[:1]) == 24
    assert best_length(RUNS[1:]) == 5
    assert best_length(RUNS) == 5
    found = against(RUNS)
    assert found.clock is Clock.WALL
    assert found.judged.value == pytest.approx(2.0)
    assert found.noise == 0


def test_a_long_request_weighs_by_its_tokens() -> None:
    """One of four times the tokens and the seconds is as fast as the other."""
    long = {name: Run((tuple(range(8)),), 4 * run.seconds, 1.0) for name, run in RUNS[0].items()}
    assert against([RUNS[0], long]).wall.value == pytest.approx(against(RUNS[:1]).wall.value)


def test_what_comes_behind_the_first_token() -> None:
    """Two rounds of three tokens, and two of one."""
    found = behind(Run(((7, 8, 9),), 6.0, 5.0, 2), Run(((7,),), 2.0, 1.0, 2))
    assert (found.outputs, found.seconds, found.cpu_seconds) == (((8, 9),), 4.0, 4.0)
    assert found.tokens == 4


def test_a_workload_that_there_is_not() -> None:
    done = CliRunner().invoke(app, ["never-slower", "--workloads", "rename,poems"])
    assert done.exit_code == 2
    assert "no workload poems; there are rename, edit," in done.output


@pytest.mark.slow
def test_both_sides_answer_the_same() -> None:
    with Progress(disable=True) as progress:
        report = measure(Settings(progress, quick=True, samples=1))
    assert [row["workload"] for row in report.rows] == ["rename", "edit", "copies", "mix"]
    assert [row["n"] for row in report.rows] == [1, 1, 2, 2]
    assert "Answers of 0 requests differ" in report.notes[1]
    assert [check.target for check in report.checks] == [1.5, 1.5]
