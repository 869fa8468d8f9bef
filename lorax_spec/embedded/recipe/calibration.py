"""Calibrate the shipped heads on what their model makes of prompts from held-out text."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from lorax_spec.embedded.recipe.dataset import Tokens
from lorax_spec.embedded.recipe.pretrain import MIX
from lorax_spec.embedded.recipe.prompts import some_prompts
from lorax_spec.embedded.recipe.stages import TESTS_MIX, Build, Stage
from lorax_spec.train import calibrate, kinds
from lorax_spec.train.base import load_base

PROMPTS = 96
SEED = 15
#: Heads by name: the LoRA they guess for, and the text they are for.
CALIBRATED: Mapping[str, tuple[str | None, Mapping[str, float]]] = {
    "medusa": (None, MIX),
    "medusa-v1": (None, MIX),
    "hydra": (None, MIX),
    "tests-medusa": ("tests", TESTS_MIX),
    "pirate-medusa": ("pirate", {"pirate": 1.0}),
}


def calibrate_heads(build: Build, name: str) -> None:
    """Write ``calibration.json`` into an adapter folder."""
    lora, mix = CALIBRATED[name]
    base = load_base(str(build.base), build.adapter(lora) if lora else None, dtype="float32")
    heads = kinds.load(build.adapter(name), base.model.config.hidden_size)
    tokenizer = Tokenizer.from_file(str(build.base / "tokenizer.json"))
    texts = {text: _held_out(build, text) for text in mix}
    prompts = some_prompts(tokenizer, texts, mix, PROMPTS, SEED)
    outputs = calibrate.own_outputs(base.model, prompts, SEED)
    content, losses = calibrate.calibration(base.model, heads, outputs)
    calibrate.write(content, build.adapter(name))
    for k, loss in enumerate(losses):
        print(f"{name}: head {k + 1}", *(f"{n} {v:.3f}" for n, v in loss.items()), flush=True)


def _held_out(build: Build, text: str) -> Tokens:
    if text == "pirate":
        tokens: Tokens = np.load(build.pirate_text)["held_out"]
        return tokens
    return build.tokens(f"held_out_{text}")


def calibration_path(build: Build, name: str) -> Path:
    return build.adapter(name) / calibrate.FILE


CALIBRATIONS: dict[str, Stage] = {
    f"calibrate-{name}": Stage(
        partial(calibrate_heads, name=name), partial(calibration_path, name=name), (name,)
    )
    for name in CALIBRATED
}
