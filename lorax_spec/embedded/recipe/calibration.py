"""Calibrate the shipped heads on what their model makes of prompts from held-out text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from lorax_spec.embedded.recipe.dataset import Tokens
from lorax_spec.embedded.recipe.pretrain import MIX
from lorax_spec.embedded.recipe.stages import TESTS_MIX, Build, Stage
from lorax_spec.train import calibrate, kinds
from lorax_spec.train.base import load_base

#: How an answer begins in chat text; a prompt ends with it.
ANSWER = "<|im_start|>assistant\n"
TURN = "<|im_start|>user\n"
PROMPT_TOKENS = 128
LONGEST_PROMPT = 600
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
    turn, answer = (tokenizer.encode(text).ids for text in (TURN, ANSWER))
    texts = {text: _held_out(build, text) for text in mix}
    prompts = held_out_prompts(texts, mix, turn, answer, SEED)
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


def held_out_prompts(
    texts: Mapping[str, Tokens],
    mix: Mapping[str, float],
    turn: Sequence[int],
    answer: Sequence[int],
    seed: int,
) -> list[list[int]]:
    """About PROMPTS prompts from ``texts`` in the shares of ``mix``: chat turns where a text has
    any (``turn`` and ``answer`` are the ids of TURN and ANSWER), else pieces of plain text."""
    generator = np.random.default_rng(seed)
    prompts: list[list[int]] = []
    for name, share in mix.items():
        tokens, wanted = texts[name], max(1, round(PROMPTS * share))
        found = _turns(tokens.tolist(), list(turn), list(answer))
        if not found:
            starts = generator.integers(0, len(tokens) - PROMPT_TOKENS, wanted)
            found = [tokens[start : start + PROMPT_TOKENS].tolist() for start in starts]
        order = generator.permutation(len(found))[:wanted]
        prompts += [found[i] for i in order]
    return prompts


def _turns(tokens: list[int], turn: list[int], answer: list[int]) -> list[list[int]]:
    """From every start of a turn to the start of its answer."""
    found, start = [], None
    for end in range(len(answer), len(tokens) + 1):
        if tokens[end - len(turn) : end] == turn:
            start = end - len(turn)
        if tokens[end - len(answer) : end] == answer and start is not None:
            if end - start <= LONGEST_PROMPT:
                found.append(tokens[start:end])
            start = None
    return found


CALIBRATIONS: dict[str, Stage] = {
    f"calibrate-{name}": Stage(
        partial(calibrate_heads, name=name), partial(calibration_path, name=name), (name,)
    )
    for name in CALIBRATED
}
