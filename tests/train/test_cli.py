"""``lorax-spec train medusa`` as a user runs it, on the embedded model."""

from __future__ import annotations

import json
import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from lorax_spec import embedded
from lorax_spec.train import kinds
from lorax_spec.train.base import load_base
from lorax_spec.train.cli import app
from lorax_spec.train.data import TokenStream, read_documents, split
from lorax_spec.train.evaluate import held_out_figures
from lorax_spec.train.heads import WEIGHTS, load_heads

STDLIB = Path(sysconfig.get_paths()["stdlib"])
TEXT = [STDLIB / "asyncio", STDLIB / "json", STDLIB / "email"]
SMALL = ["--sequence-length", "64", "--batch-size", "2", "--dtype", "float32"]


def train(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["medusa", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_a_reduced_run_beats_chance_by_far(tmp_path: Path) -> None:
    output = tmp_path / "heads"
    data = [part for path in TEXT for part in ("--data", path)]
    text = train(
        *data,
        "--output",
        output,
        "--num-heads",
        2,
        "--steps",
        150,
        "--batch-size",
        4,
        "--sequence-length",
        256,
    )
    assert "tokens per step" in text
    assert "head 2" in text

    base = load_base(None, None, dtype="float32")
    _, held_out = split(read_documents(TEXT, base.tokenizer), seed=0)
    stream = TokenStream.join(held_out)
    trained = held_out_figures(base.model, load_heads(output, 256), stream)
    # Chance that knows the text's own statistics: always guess its most frequent tokens.
    frequencies = np.sort(np.bincount(stream.ids.numpy()))[::-1] / len(stream)
    for head in (1, 2):
        assert trained.top[head][0] > 1.5 * frequencies[0]
        assert trained.top[head][9] > 1.3 * frequencies[:10].sum()
    assert trained.top[1][0] > trained.top[2][0]


@pytest.mark.slow
def test_layouts_lora_and_joint_folders(tmp_path: Path) -> None:
    data, lora = STDLIB / "json", embedded.path() / "adapters" / "tests"
    common = ["--data", data, "--steps", 2, "--num-heads", 2, *SMALL]
    train(*common, "--output", tmp_path / "v1", "--own-lm-head")
    train(*common, "--output", tmp_path / "joint", "--lora", lora, "--joint")

    v1 = load_file(tmp_path / "v1" / WEIGHTS)
    assert v1["0.1.weight"].shape == (4096, 256)
    assert json.loads((tmp_path / "v1" / "config.json").read_text())["version"] == "1"
    joint = {path.name for path in (tmp_path / "joint").iterdir()}
    lora_files = {"adapter_config.json", "adapter_model.safetensors"}
    assert joint == {"config.json", WEIGHTS, "calibration.json", *lora_files}
    # What was written can be started from.
    init = tmp_path / "joint"
    train(*common, "--output", tmp_path / "more", "--init-from", init, "--learning-rate", 0)
    again, before = (load_file(tmp_path / name / WEIGHTS) for name in ("more", "joint"))
    assert all(torch.equal(again[name], before[name]) for name in before)


@pytest.mark.slow
def test_hydra_heads_start_from_medusa_s_and_are_calibrated(tmp_path: Path) -> None:
    data, shipped = STDLIB / "json", embedded.path() / "adapters"
    common = ["--data", data, "--steps", 2, *SMALL]
    output = tmp_path / "hydra"
    text = train(
        *common, "--output", output, "--hydra", "--inner-size", 300, "--init-from",
        shipped / "medusa", "--num-heads", 2, "--learning-rate", 0, "--soft-labels",
    )  # fmt: skip
    assert "calibration" in text
    config = json.loads((output / "config.json").read_text())
    assert (config["hydra_num_heads"], config["hydra_inner_size"]) == (2, 300)
    base = load_base(None, None, dtype="float32")
    stream = TokenStream.join(read_documents([data], base.tokenizer))
    hydra, medusa = (
        held_out_figures(base.model, kinds.load(folder, 256, 2), stream, windows=2)
        for folder in (output, shipped / "medusa")
    )
    # Nothing was learned at rate 0; what differs is rounding.
    assert hydra.loss == pytest.approx(medusa.loss, abs=0.02)
    again = tmp_path / "again"
    train(*common, "--output", again, "--hydra", "--init-from", output, "--num-heads", 3)
    assert json.loads((again / "config.json").read_text())["hydra_inner_size"] == 300
    assert len(json.loads((again / "calibration.json").read_text())["noise"]) == 3


@pytest.mark.slow
def test_heads_that_are_there_can_be_calibrated(tmp_path: Path) -> None:
    folder = tmp_path / "medusa"
    shutil.copytree(embedded.path() / "adapters" / "medusa", folder)
    (folder / "calibration.json").unlink()
    arguments = ["calibrate", "--adapter", folder, "--data", STDLIB / "json", "--prompts", 4]
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    content = json.loads((folder / "calibration.json").read_text())
    assert [len(ranks) for ranks in content["accepted"]["sampled"]] == [10] * 4
    nothing = ["calibrate", "--adapter", str(tmp_path), "--data", str(STDLIB / "json")]
    result = CliRunner().invoke(app, nothing)
    assert result.exit_code == 2
    assert "holds neither" in " ".join(result.output.split())


@pytest.mark.slow
def test_self_distillation_learns_from_the_models_own_text(tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    lines = [
        {"messages": [{"role": "user", "content": f"What is {i}?"},
                      {"role": "assistant", "content": "A number."}]}
        for i in range(40)
    ]  # fmt: skip
    items.write_text("\n".join(map(json.dumps, lines)))
    text = train(
        "--data", items, "--output", tmp_path / "heads", "--self-distill", "--distill-tokens",
        600, "--steps", 2, "--num-heads", 1, *SMALL,
    )  # fmt: skip
    assert "the model writes its own text" in text
    assert (tmp_path / "heads" / WEIGHTS).exists()


def test_errors_are_told_and_not_raised(tmp_path: Path) -> None:
    arguments = ["medusa", "--data", str(tmp_path / "nowhere"), "--output", str(tmp_path / "x")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "nowhere" in result.output
    assert not (tmp_path / "x").exists()
