"""``lorax-spec adapters inspect``: what it says is what is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from lorax_spec import embedded
from lorax_spec.adapters.folder import read_folder
from lorax_spec.adapters.shape import shape_of
from lorax_spec.cli.adapters import app
from lorax_spec.engine.outline import outline
from tests.engine.peft_forms import tuned
from tests.engine.test_adapter_formats import LLAMA_FORMS, llama

BASE = embedded.path() / "base"
ADAPTERS = embedded.path() / "adapters"


def inspected(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["inspect", str(folder), *options])


def facts(folder: Path, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(inspected(folder, "--json", *options).stdout)
    return found


@pytest.mark.parametrize("name", ["pirate", "tests-medusa", "medusa-v1", "hydra"])
def test_embedded_adapters_fit_the_embedded_model(name: str) -> None:
    seen = facts(ADAPTERS / name, "--model-id", str(BASE), "--dtype", "float32")
    weights = read_folder(ADAPTERS / name, shape_of(llama(), ""), torch.float32)
    assert seen["faults"] == [] and seen["kind"] == weights.kind
    assert (seen["device_bytes"], seen["dtype"]) == (weights.nbytes, "float32")
    own = facts(ADAPTERS / name, "--model-id", str(BASE))
    assert (own["device_bytes"], own["dtype"]) == (weights.nbytes // 2, "bfloat16")
    shown = inspected(ADAPTERS / name, "--model-id", str(BASE))
    assert shown.exit_code == 0 and f"fits         {BASE}" in shown.stdout.replace("\n", "")


@pytest.mark.parametrize("form", ["patterns", "dora", "head and embeddings whole", "head only"])
def test_what_it_says_of_a_lora(tmp_path: Path, form: str) -> None:
    tuned(llama(), **LLAMA_FORMS[form]).save_pretrained(tmp_path)
    seen = facts(tmp_path, "--model-id", str(BASE), "--dtype", "float32")
    weights = read_folder(tmp_path, shape_of(llama(), ""), torch.float32)
    assert weights.lora is not None
    modules = weights.lora.modules.values()
    assert seen["device_bytes"] == weights.nbytes
    assert seen["lora"]["ranks"] == sorted({module.rank for module in modules})
    assert seen["lora"]["modules"] == len(modules)
    assert seen["lora"]["dora"] == (form == "dora")
    if form != "dora":
        assert seen["lora"]["scales"] == sorted({module.scale for module in modules})
    whole = ["lm_head", "model.embed_tokens"] if "whole" in form else []
    assert seen["lora"]["whole"] == whole
    shown = inspected(tmp_path)
    assert shown.exit_code == 0 and "fits" not in shown.stdout
    assert ("DoRA" in shown.stdout) == (form == "dora")


def test_what_does_not_fit_is_said_in_order_and_ends_with_status_1() -> None:
    draft = str(embedded.draft_path())
    shown = inspected(ADAPTERS / "pirate", "--model-id", draft)
    assert shown.exit_code == 1 and "this model needs" in shown.stdout
    assert "more; --json shows all" in shown.stdout
    seen = facts(ADAPTERS / "pirate", "--model-id", draft)
    assert len(seen["faults"]) > 40 and seen["device_bytes"] == 0
    assert inspected(ADAPTERS / "pirate").exit_code == 0


def test_no_such_model(tmp_path: Path) -> None:
    shown = inspected(ADAPTERS / "pirate", "--model-id", str(tmp_path / "none"))
    assert shown.exit_code == 2


def test_an_outline_is_the_models_own_shape() -> None:
    shape, dtype = outline(str(BASE))
    whole = shape_of(llama(), str(BASE))
    assert shape == whole and dtype == torch.bfloat16
    assert shape.parameters.keys() == whole.parameters.keys()
