"""Cells: which clock judges, what is slower, and plots that stand by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.progress import Progress
from typer.testing import CliRunner

from lorax_spec.bench import speculation
from lorax_spec.bench.cells import (
    AGAIN,
    OFF,
    WAVES,
    Cell,
    Decoded,
    DecodingSide,
    Place,
    by_depth,
    cell,
    ratio,
    runs_by_place,
    worth_timing,
)
from lorax_spec.bench.cli import app
from lorax_spec.bench.engine_side import Traffic
from lorax_spec.bench.judging import Clock, Ratio
from lorax_spec.bench.pairs import Run
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.speculation import Plan
from lorax_spec.bench.speculation_cli import listed
from lorax_spec.bench.statistics import Estimate
from lorax_spec.bench.subject import Opened, Subject
from lorax_spec.bench.tasks import RANDOM, embedded_tasks
from lorax_spec.bench.workload import Prompt
from lorax_spec.errors import InvalidArgument
from lorax_spec.types import DrafterCounts


def about(value: float, spread: float = 0.01) -> Estimate:
    return Estimate(value, value - spread, value + spread, 5)


@pytest.mark.parametrize(
    ("wall", "cpu", "null_wall", "null_cpu", "clock", "slower"),
    [
        (about(0.90), about(1.00), about(1.0, 0.02), about(1.0), Clock.WALL, True),
        (about(0.90), about(1.00), about(1.0, 0.05), about(1.0), Clock.CPU, False),
        (about(1.00), about(0.90), about(1.0, 0.05), about(1.0), Clock.CPU, True),
        (about(1.00), about(1.00), about(0.96, 0.0), about(1.0), Clock.CPU, False),
        # As far below the floor as the null is from 1.
        (about(0.965), about(0.5), about(1.0, 0.02), about(1.0), Clock.WALL, False),
        (about(0.955), about(0.5), about(1.0, 0.02), about(1.0), Clock.WALL, True),
        # Its interval reaches the floor.
        (about(0.90, 0.09), about(0.5), about(1.0, 0.02), about(1.0), Clock.WALL, False),
    ],
)
def test_a_noisy_wall_does_not_judge_and_noise_is_no_slowness(
    wall: Estimate,
    cpu: Estimate,
    null_wall: Estimate,
    null_cpu: Estimate,
    clock: Clock,
    slower: bool,
) -> None:
    found = Ratio(wall, cpu, null_wall, null_cpu)
    assert found.clock is clock
    assert found.is_slower is slower


def test_ratios_are_speeds_by_off() -> None:
    runs = [
        {
            OFF: Run(((1, 2),), 4.0, 2.0),
            AGAIN: Run(((1, 2),), 5.0, 2.0),
            "auto": Run(((1, 2),), 2.0, 4.0),
        }
    ]
    found = ratio(runs, "auto")
    assert (found.wall.value, found.cpu.value) == (2.0, 0.5)
    assert (found.null_wall.value, found.null_cpu.value) == (0.8, 1.0)


def test_groups_take_prompts_in_turn_and_repeat_them() -> None:
    place = Place("x", 4, [Prompt("x", (i,), 40) for i in range(5)], 3)
    groups = [place.group(i) for i in range(2)]
    ids = [[prompt.ids[0] for prompt in group] for group in groups]
    assert ids == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1], [2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3]]
    lengths = [prompt.new_tokens for prompt in groups[0]]
    assert lengths == [prompt.new_tokens for prompt in groups[1]]
    assert min(lengths) >= 20
    assert max(lengths) <= 60
    assert sum(lengths) == pytest.approx(12 * 40, rel=0.05)
    assert len(set(lengths[:4])) == 4


def test_depths_that_nothing_was_drafted_at_are_left_out() -> None:
    assert by_depth(DrafterCounts(15, 6, (10, 5), (5, 1))) == "0.50 0.20"
    assert by_depth(DrafterCounts()) == "-"


def planned() -> Iterator[Cell]:
    for drafter in ("auto", "medusa"):
        for workload in ("rename", "<b>"):
            for batch in (1, 8):
                found = Ratio(about(1.1 + batch / 10), about(1.1), about(1.0), about(1.0))
                counts = DrafterCounts(10, 5, (10,), (5,))
                yield Cell(workload, drafter, batch, 0.0, found, 99.0, 1.5, counts, 0)


def test_plots_are_written_and_the_page_needs_nothing_else(tmp_path: Path) -> None:
    plots = pytest.importorskip("lorax_spec.bench.plots")
    cells = list(planned())
    figures = {"ratios": plots.ratios(cells, "a title"), "tokens": plots.tokens(cells, "tokens")}
    rows = [one.row() for one in cells]
    written = plots.write(tmp_path / "new", "it", figures, rows, "a <title>", ["a & b"])
    assert [path.name for path in written] == ["it-ratios.png", "it-tokens.png", "it.html"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[:2])
    page = written[2].read_text()
    assert page.count("<svg") == 2
    assert "a &lt;title&gt;" in page
    assert "a &amp; b" in page
    assert "<td>&lt;b&gt;</td>" in page
    assert page.count("<tr>") == 1 + len(cells)
    assert "src=" not in page and "<script" not in page and "<link" not in page


def test_lines_of_a_plot_are_the_judged_ratios() -> None:
    plots = pytest.importorskip("lorax_spec.bench.plots")
    figure = plots.ratios([one for one in planned() if one.drafter == "auto"], "a title")
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].get_lines()}
    assert list(lines["rename, T 0"]) == pytest.approx([1.2, 1.9])
    assert list(lines["0.98"]) == [0.98, 0.98]


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [("1, 4,1,", int, [1, 4]), ("0,0.8", float, [0.0, 0.8]), ("", int, [])],
)
def test_lists_are_read(text: str, kind: type, found: list[float]) -> None:
    assert listed("batches", text, kind) == found


def test_lists_and_plans_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="--batches"):
        listed("batches", "1,two", int)
    for wrong in (
        {"drafters": ["eagle"]},
        {"batches": [0]},
        {"temperatures": [-1.0]},
        {"batches": []},
    ):
        with pytest.raises(InvalidArgument):
            Plan(**wrong)  # type: ignore[arg-type]
    done = CliRunner().invoke(app, ["speculation", "--drafters", "eagle"])
    assert done.exit_code == 2
    assert "no drafter eagle" in done.output


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    with Subject().open() as opened:
        yield opened


@pytest.mark.slow
def test_places_come_in_order_with_the_groups_asked_for(opened: Opened) -> None:
    off = opened.side(OFF)
    sides = {OFF: off, AGAIN: off, "auto": opened.side("auto")}
    tasks = embedded_tasks(("rename", RANDOM), 4, opened.tokenizer, 12, seed=0)
    places = [Place(kind, batch, p, 2) for kind, p in tasks.items() for batch in (1, 2)]
    found = list(runs_by_place(opened.core, sides, places, 60.0, 0))
    assert [place for place, _ in found] == places
    assert [len(runs) for _, runs in found] == [2] * 4
    more = [replace(places[0], most=most) for most in (1, 5)]
    hurried = list(runs_by_place(opened.core, sides, more, 0.0, 0))
    assert [len(runs) for _, runs in hurried] == [1, 3]
    for place, runs in found:
        for run in runs:
            assert {len(side.outputs) for side in run.values()} == {WAVES * place.batch}
        one = cell(place, "auto", runs, 0.0)
        assert one.differing == 0
        assert one.tokens_per_forward >= 1.0
        assert cell(place, OFF, runs, 0.0).tokens_per_forward == 1.0


@pytest.mark.slow
def test_timed_prompts_are_computed_beforehand(opened: Opened) -> None:
    """The first step of a timed run takes at most a block of each prompt."""
    prompt = embedded_tasks(("code",), 1, opened.tokenizer, 4, seed=0)["code"]
    side = DecodingSide(opened.side(OFF))
    rows: list[int] = []
    forward = opened.core._model.forward

    def counted(batch: object) -> object:
        rows.append(len(batch.ids))  # type: ignore[attr-defined]
        return forward(batch)  # type: ignore[arg-type]

    def timed(given: list[object]) -> Run:
        rows.clear()
        return side(given)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opened.core._model, "forward", counted)
        sides = {OFF: side.side, AGAIN: side.side}
        list(runs_by_place(opened.core, sides, [Place("code", 1, prompt, 1)], 0.0, 0))
        run = timed(prompt)  # type: ignore[arg-type]
    assert len(prompt[0].ids) > 32
    assert rows[0] <= 16
    assert isinstance(run, Decoded)
    assert run.details[0].forward_passes == 4


@pytest.mark.slow
def test_a_request_that_ends_makes_room_for_the_next(opened: Opened) -> None:
    """The clock sees full batches only."""
    prompts = embedded_tasks(("code",), 6, opened.tokenizer, 8, seed=0)["code"]
    lengths = [3, 8, 8, 8, 8, 8]
    given = [replace(p, new_tokens=n) for p, n in zip(prompts, lengths, strict=True)]
    traffic = Traffic(opened.core, list(opened.side(OFF).requests(given)))
    running: list[int] = []
    step = opened.core.step

    def watched() -> object:
        running.append(sum(opened.core.load_figures()[:2]))
        return step()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opened.core, "step", watched)
        traffic.fill(2)
        assert set(running) == {2}
        assert all(traffic.answers[i].tokens for i in list(traffic.answers)[:2])
        traffic.run_full(2)
        in_time = traffic.tokens
        assert set(running) == {2}
    answers = traffic.finish()
    assert in_time < sum(len(answer.tokens) for answer in answers)
    assert [len(answer.tokens) for answer in answers] == lengths


@pytest.mark.slow
def test_loops_are_not_timed_unless_there_is_nothing_else(opened: Opened) -> None:
    side = opened.side(OFF)
    tasks = embedded_tasks(("prose",), 12, opened.tokenizer, 56, seed=0)["prose"]
    good = worth_timing(side, tasks)
    assert 0 < len(good) <= len(tasks)
    assert worth_timing(side, [one for one in tasks if one not in good] or tasks)


@pytest.mark.slow
def test_a_workload_of_ones_own_runs_against_drafters(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "def add(a, b):", "max_new_tokens": 12, "kind": "sums"}\n')
    plan = Plan(
        workload=path,
        drafters=["off", "auto", "prompt_lookup"],
        batches=[1, 2],
        temperatures=[0.0, 0.8],
        output=tmp_path / "figures",
    )
    with Progress(disable=True) as progress:
        report = speculation.measure(Settings(progress, quick=True), plan)
    found = [(row["workload"], row["drafter"], row["batch"], row["T"]) for row in report.rows]
    assert found == [
        ("sums", drafter, batch, temperature)
        for temperature in (0.0, 0.8)
        for batch in (1, 2)
        for drafter in ("auto", "prompt_lookup")
    ]
    assert (tmp_path / "figures" / "speculation.html").exists()
