"""The benchmarks on the real engine: right counts, equal work, and commands that run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.progress import Progress
from typer.testing import CliRunner

from lorax_spec.bench import acceptance, coldload, peers, suite
from lorax_spec.bench.acceptance import Case, answer, tokens_per_forward
from lorax_spec.bench.cli import app
from lorax_spec.bench.engine_side import Answer, EngineSide
from lorax_spec.bench.machine import circumstances
from lorax_spec.bench.pairs import comparable, interleaved
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.transformers_side import PaddedSide, TransformersSide, load_reference
from lorax_spec.bench.workload import prompts, worth_counting
from lorax_spec.engine.engine import Engine
from lorax_spec.types import Method, SpeculationDetails


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(dtype="float32", max_total_tokens=512) as engine:
        yield engine


def test_prompts_take_kinds_in_turn_and_spread_over_them(engine: Engine) -> None:
    chosen = prompts(("rename", "edit"), 6, engine.tokenizer)
    assert [prompt.kind for prompt in chosen] == ["rename", "edit"] * 3
    assert len({prompt.ids for prompt in chosen}) == 6
    assert chosen == prompts(("rename", "edit"), 6, engine.tokenizer)


def test_loops_and_short_answers_are_not_worth_counting() -> None:
    assert worth_counting([(7 * i * i) % 101 for i in range(60)])
    assert not worth_counting([1, 2, 3] * 20)
    assert not worth_counting([1, 2, 3, 4])


def test_tokens_per_forward_leave_the_prompts_pass_out() -> None:
    answers = [
        Answer(list(range(9)), SpeculationDetails(forward_passes=5)),
        Answer(list(range(5)), SpeculationDetails(forward_passes=2)),
    ]
    assert tokens_per_forward(answers).value == (8 + 4) / (4 + 1)


@pytest.mark.slow
def test_all_sides_give_the_same_tokens(engine: Engine) -> None:
    ours = EngineSide(engine.core)
    model = load_reference(engine.info.model_path)
    sides = {
        "ours": ours,
        "lookup": ours.speculating(Method.PROMPT_LOOKUP, 5),
        "theirs": TransformersSide(model),
        "their lookup": TransformersSide(model, 5),
        "padded": PaddedSide(model),
    }
    settings = Settings(Progress(disable=True), quick=True)
    asked = settings.prompts(("rename", "write"), 4, engine.tokenizer)
    same, differing = comparable(interleaved(sides, [asked], seed=0))
    assert (len(same), differing) == (1, 0)
    assert all(run.seconds > 0 and run.cpu_seconds > 0 for run in same[0].values())


def test_no_run_profits_from_the_one_before(engine: Engine) -> None:
    """The prompt is computed each time: a cached one would leave the engine less to do."""
    side = EngineSide(engine.core)
    (prompt,) = prompts(("code",), 1, engine.tokenizer)
    rows: list[int] = []
    forward = engine.core._model.forward

    def counted(batch: object) -> object:
        rows.append(len(batch.ids))  # type: ignore[attr-defined]
        return forward(batch)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.core._model, "forward", counted)
        for _ in range(2):
            rows.clear()
            side([prompt])
            assert rows[0] >= len(prompt.ids)


@pytest.mark.slow
def test_acceptance_is_the_same_every_time_and_more_than_one(engine: Engine) -> None:
    """Of a new engine; prompt lookup learns while it is used."""
    case = Case(("rename",), 0.8, 5)

    def fresh() -> list[Answer]:
        with Engine(dtype="float32", deterministic=False) as new:
            return answer(case, new, 4, seed=3)

    first, second = fresh(), fresh()
    assert [one.tokens for one in first] == [one.tokens for one in second]
    assert tokens_per_forward(first) == tokens_per_forward(second)
    assert tokens_per_forward(first).value > 1.2
    unseeded = answer(case, engine, 4, seed=4)
    assert [one.tokens for one in first] != [one.tokens for one in unseeded]


@pytest.mark.slow
def test_heads_of_every_adapter_are_measured(engine: Engine) -> None:
    measured = {case.adapter for case in acceptance.cases()}
    measured |= {case.heads for case in acceptance.cases()}
    with_heads = {a.adapter_id for a in engine.list_adapters() if "medusa" in a.kind}
    assert with_heads <= measured
    paired = Case(("rename",), 0.0, 3, "demo/pirate", "demo/pirate-medusa")
    answers = answer(paired, engine, 2, seed=0)
    assert all(one.speculation.drafters["medusa"].drafted_tokens > 0 for one in answers)


@pytest.mark.slow
def test_cold_loads_are_cold_and_windows_are_around_them() -> None:
    with Progress(disable=True) as progress:
        report = coldload.measure(Settings(progress, samples=2))
    windows = {row["meanwhile"]: row["windows"] for row in report.rows}
    assert windows["a cold load alone"] == windows["nothing (noise)"] == 2
    assert windows["it decodes beside them"] == 2


@pytest.mark.slow
def test_a_peer_that_is_not_installed_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAX_SPEC_BENCH_LLAMA_PYTHON", "/usr/bin/false")
    monkeypatch.setenv("LORAX_SPEC_BENCH_OPENVINO_PYTHON", "/usr/bin/false")
    with Progress(disable=True) as progress:
        report = peers.measure(Settings(progress, quick=True, samples=1))
    absent = {row["engine"] for row in report.rows if row["by transformers"] == "not installed"}
    assert absent == {
        f"{name}{lookup}"
        for name in ("llama.cpp", "openvino-genai")
        for lookup in ("", ", lookup 10")
    }


@pytest.mark.slow
def test_the_command_shows_a_table_and_writes_the_json(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    done = CliRunner().invoke(app, ["acceptance", "--quick", "--prompts", "2", "--json", str(path)])
    assert done.exit_code == 0, done.output
    assert "tokens per forward" in done.output
    assert "targets" in done.output
    found = json.loads(path.read_text())["acceptance"]
    assert len(found["checks"]) == 6
    assert found["circumstances"]["prompts"] == 2
    assert found["circumstances"]["torch_threads"] == 1


def test_options_without_a_command_mean_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(suite, "run", lambda names, *_, **options: asked.append((names, options)))
    for words in (["--prompts", "2"], ["all", "--prompts", "2"], ["batch", "--prompts", "2"]):
        assert CliRunner().invoke(app, words).exit_code == 0
    assert asked[0] == asked[1]
    assert asked[0][0] == suite.BENCHMARKS
    assert asked[2][0] == ("batch",)


def test_circumstances_say_what_a_reader_must_know() -> None:
    found = circumstances()
    assert len(found["load_average"]) == 3
    assert found["torch_threads"] >= 1
    assert {"torch", "transformers", "lorax-spec"} <= set(found["versions"])
    json.dumps(found)
