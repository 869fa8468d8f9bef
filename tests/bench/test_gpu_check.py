"""``make gpu-check`` without a GPU: its floors, that no part harms another, and the whole of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lorax_spec import embedded
from lorax_spec.bench.cli import app
from lorax_spec.bench.gpu import packages, page, running, suites, worker
from lorax_spec.bench.gpu.adapter_files import HEADS, write
from lorax_spec.bench.gpu.figures import Figure, Finding
from lorax_spec.bench.gpu.fixed_drafter import TREE, FixedDrafter
from lorax_spec.bench.gpu.floors import Ceilings, Cost
from lorax_spec.bench.gpu.gap import covered
from lorax_spec.bench.gpu.parts import PARTS, Part
from lorax_spec.bench.gpu.share import OutOfTime, Share, cut_after
from lorax_spec.bench.gpu.sizes import DRY, TINY, Target
from lorax_spec.bench.gpu.stage import Stage
from lorax_spec.bench.statistics import Estimate
from lorax_spec.bench.widening.in_memory import Widening
from lorax_spec.bench.widening.shape import PRESETS, Preset, Variant
from lorax_spec.engine.drafting.drafter import Turn
from lorax_spec.speculation.offer import tree_of
from tests.bench import gpu_parts
from tests.bench.widened import difference, load, logits

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
#: As measured once on an H200.
H200 = Ceilings(4.3e12, 788e12)
LLAMA_3_8B = Cost(PRESETS[Preset.B8], 128256, tied=False)
LLAMA_2_7B = Cost(PRESETS[Preset.B7], 32000, tied=False)


@pytest.mark.parametrize(
    ("cost", "gigabytes", "kibibytes"), [(LLAMA_3_8B, 15.01, 128), (LLAMA_2_7B, 13.21, 512)]
)
def test_bytes_of_a_step_are_those_of_the_models(
    cost: Cost, gigabytes: float, kibibytes: int
) -> None:
    assert cost.weight_bytes / 1e9 == pytest.approx(gigabytes, abs=0.005)
    assert cost.kv_bytes_per_token == kibibytes * 1024


@pytest.mark.parametrize(
    ("cost", "batch", "milliseconds"),
    [
        (LLAMA_3_8B, 1, 3.52),
        (LLAMA_3_8B, 8, 3.74),
        (LLAMA_3_8B, 32, 4.49),
        (LLAMA_3_8B, 64, 5.49),
        (LLAMA_2_7B, 1, 3.20),
        (LLAMA_2_7B, 8, 4.07),
        (LLAMA_2_7B, 32, 7.07),
        (LLAMA_2_7B, 64, 11.06),
    ],
)
def test_floors_with_a_thousand_tokens(cost: Cost, batch: int, milliseconds: float) -> None:
    assert 1000 * cost.seconds(batch, 1024, H200) == pytest.approx(milliseconds, abs=0.011)


def test_many_rows_are_bounded_by_products() -> None:
    plain = LLAMA_3_8B.seconds(32, 1024, H200)
    assert LLAMA_3_8B.seconds(32, 1024, H200, rows=4) == plain
    assert 1000 * LLAMA_3_8B.seconds(32, 1024, H200, rows=32) == pytest.approx(19.5, rel=0.01)


def test_bytes_of_adapters() -> None:
    assert LLAMA_3_8B.lora_bytes(16) / 1e6 == pytest.approx(83.9, abs=0.05)
    assert LLAMA_2_7B.lora_bytes(16) / 1e6 == pytest.approx(80.0, abs=0.05)
    assert LLAMA_3_8B.medusa_bytes(3) / 1e6 == pytest.approx(101, abs=0.5)


def test_a_tied_embedding_is_read_as_the_lm_head() -> None:
    tied = replace(LLAMA_3_8B, tied=True)
    assert tied.parameters_read == LLAMA_3_8B.parameters_read


@pytest.mark.parametrize("variant", Variant)
def test_a_model_made_in_memory_answers_as_the_small_one(variant: Variant) -> None:
    source = embedded.path() / "base"
    wide = replace(TINY, hidden_size=1024) if variant is Variant.TILE else TINY
    widening = Widening.of(source, wide, variant, torch.float32)
    ids = torch.arange(20, 60)[None]
    small = logits(load(source, torch.float32), ids)
    assert difference(small, logits(widening.model(), ids)) < 1e-4
    again = widening.model()
    assert again.config is not widening.config, "engines change what they are given"


def test_adapter_files_are_distinct_by_id_and_one_on_disk(tmp_path: Path) -> None:
    widening = Widening.of(embedded.path() / "base", TINY, dtype=torch.float32)
    files = write(widening, tmp_path / "adapters", DRY)
    assert len({*files.loras}) == DRY.adapters and len({*files.medusas}) == DRY.medusas
    weights = "adapter_model.safetensors"
    first, other = (files.root / name / weights for name in files.loras[:2])
    assert first.samefile(other)
    fresh = files.root / files.fresh(files.loras[0]) / weights
    assert not fresh.samefile(first) and fresh.read_bytes() == first.read_bytes()
    chain = json.loads((files.root / "medusa-chain" / "config.json").read_text())
    assert chain["medusa_choices"] == [[0], [0, 0], [0, 0, 0], [0, 0, 0, 0]]
    own = json.loads((files.root / "medusa" / "config.json").read_text())
    assert "medusa_choices" not in own
    assert json.loads((files.root / HEADS / "config.json").read_text())["medusa_num_heads"] == 3


@pytest.mark.parametrize("nodes", [1, 7, TREE, 32, 63])
def test_the_fixed_drafter_gives_as_many_nodes_as_are_asked_for(nodes: int) -> None:
    sequence: Any = SimpleNamespace(tokens=[0] * 50)
    turn = Turn(sequence, torch.zeros(1), nodes, nodes)
    (offer,) = FixedDrafter(4096).offer([turn])
    assert len(offer) == nodes and offer.is_chain == (nodes < TREE)
    tree = tree_of(offer, list(range(nodes)))
    siblings = list(zip(tree.parents, tree.tokens, strict=True))
    assert len({*siblings}) == nodes


def test_what_takes_too_long_is_cut_and_earlier_alarms_live() -> None:
    with pytest.raises(OutOfTime, match="earlier"), _earlier_alarm():
        with pytest.raises(OutOfTime, match="cut"), cut_after(0.05):
            time.sleep(5)
        time.sleep(5)


def _earlier_alarm() -> Any:
    from contextlib import contextmanager

    @contextmanager
    def alarm() -> Any:
        try:
            with cut_after(0.3):
                yield
        except OutOfTime as error:
            raise OutOfTime("earlier") from error

    return alarm()


def test_a_share_is_filled_but_gives_the_least() -> None:
    assert list(Share.of(0).fill(range(9), 2)) == [0, 1]
    assert list(Share.of(60).fill(range(9), 2)) == list(range(9))


def _stage(folder: Path) -> Stage:
    return Stage(Target.TINY, Variant.ZERO, True, folder, folder)


def test_a_part_that_fails_keeps_what_it_found(tmp_path: Path) -> None:
    finding = running.run(Part("raising", 1, gpu_parts.raising), _stage(tmp_path), 5, 5)
    assert finding.error == "RuntimeError: no such kernel"
    assert "and more" in finding.traceback
    assert [figure.what for figure in finding.figures] == ["the first"]


def test_a_part_without_time_says_so(tmp_path: Path) -> None:
    finding = running.run(Part("fine", 1, gpu_parts.fine), _stage(tmp_path), 0, 0)
    assert finding.error == "OutOfTime: no time was left" and not finding.figures


def test_no_part_harms_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_DEAF_SECONDS", 2.0)
    parts = gpu_parts.__name__
    setting = worker.Setting(Target.TINY, Variant.ZERO, True, 0, tmp_path, parts)
    running_parts = worker.Worker(setting)
    found: dict[str, Finding] = {}
    try:
        for part in gpu_parts.PARTS:
            limit = 1.0 if part.name in ("endless", "deaf") else 60.0
            found[part.name] = running_parts.run(part, limit, limit)
    finally:
        running_parts.close()
    errors = {name: finding.error for name, finding in found.items()}
    assert errors == {
        "fine": "",
        "raising": "RuntimeError: no such kernel",
        "dying": "its process ended with status 7",
        "fine again": "",
        "endless": "OutOfTime: cut after 1 s",
        "deaf": "it did not end when it was cut; its process was killed",
        "fine at last": "",
    }
    assert [figure.what for figure in found["endless"].figures] == ["before"]
    processes = [found[name].more["process"] for name in ("fine", "fine again", "fine at last")]
    assert len({*processes}) == 3


def test_verdicts_in_the_table_and_causes_in_the_json() -> None:
    figures = [
        Figure("slow", Estimate(1.3, 1.2, 1.4, 5), "x", 1.1, at_most=True, noise=0.02),
        Figure("quick", 0.9, "", 0.8),
        Figure("not there", float("nan"), "", 0, at_most=True),
        Figure("only shown", 3.0, " ms"),
    ]
    finding = Finding("part", 10, 5, figures, "RuntimeError: [bold]no[/]", "Traceback")
    verdicts = [page.verdict(figure, dry=False) for figure in figures]
    assert ["met" in verdicts[1], "MISSED" in verdicts[0], verdicts[3]] == [True, True, "-"]
    assert page.verdict(figures[0], dry=True) == "dry"
    assert page.table([finding], dry=False).row_count == 5
    written = json.loads(page.as_json([finding], {"gpu": "H200"}, {"dry_run": False}))
    slow, _, nothing, _ = written["parts"][0]["figures"]
    assert slow["cause"] == "" and slow["met"] is False and slow["value"] == 1.3
    assert nothing["value"] is None and nothing["met"] is False
    assert written["parts"][0]["traceback"] == "Traceback" and written["measured_on"] == "GPU"
    dry = json.loads(page.as_json([finding], {}, {"dry_run": True}))
    assert "means nothing" in dry["measured_on"]
    assert {figure["met"] for figure in dry["parts"][0]["figures"]} == {None}


def test_missing_packages_say_what_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = ("peft", "matplotlib")
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name in gone else object())
    assert [(each.vital, str(each)) for each in packages.missing()] == [
        (True, "missing: peft: nothing can run"),
        (False, "missing: matplotlib: no plots"),
    ]


def test_outcomes_of_tests_are_read_from_the_last_summary() -> None:
    ran = suites.Ran(1, "...F\n2 failed, 30 passed, 1 skipped, 1 error in 9.15s\n")
    assert ran.count("failed", "error", "errors") == 3 and ran.count("passed") == 30
    assert ran.last_line == "2 failed, 30 passed, 1 skipped, 1 error in 9.15s"


def test_a_suite_that_does_not_end_is_cut_with_all_its_output() -> None:
    command = [sys.executable, "-c", "import time; print('begun'); time.sleep(600)"]
    ran = suites.run(command, 3.0)
    assert ran.status is None and ran.output == "begun\n"


def test_spans_that_overlap_count_once() -> None:
    assert covered([(5, 6), (0, 2), (1, 3), (1.5, 2)]) == 4
    assert covered([]) == 0


def test_a_dry_run_reports_every_part(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lorax_spec.bench.gpu", "--dry-run", "--minutes", "9"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "out")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    written = json.loads((tmp_path / "out" / "gpu-check.json").read_text())
    errors = {part["part"]: part["traceback"] for part in written["parts"] if part["error"]}
    assert done.returncode == 0, (errors, done.stderr[-2000:])
    assert [part["part"] for part in written["parts"]] == [part.name for part in PARTS]
    assert not errors and all(part["figures"] for part in written["parts"])
    for part in written["parts"]:
        assert all(figure["value"] is not None for figure in part["figures"]), part
    assert "means nothing" in written["measured_on"] and "means nothing" in done.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"gpu-check.txt", "gpu-check.html", "gpu-check-targets.png"} <= names


def test_without_a_gpu_it_says_what_needs_none() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = CliRunner().invoke(app, ["gpu-check"])
    assert done.exit_code == 2 and "--dry-run needs none" in done.output
