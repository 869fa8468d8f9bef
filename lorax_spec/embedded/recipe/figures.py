"""Measure the bundle on held-out text and on its own outputs, for the model card."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from lorax_spec.embedded.recipe.lora import sounds_pirate
from lorax_spec.embedded.recipe.stages import Build
from lorax_spec.train.acceptance import Output, acceptance, generate
from lorax_spec.train.base import load_base
from lorax_spec.train.data import TokenStream
from lorax_spec.train.evaluate import held_out_figures
from lorax_spec.train.heads import MedusaHeads, load_heads

SPLITS = ("stdlib", "packages", "tests", "topics", "chat")
TEMPERATURES = (0.0, 0.8)
PROMPTS = 24
NEW_TOKENS = 96
#: For each LoRA (``None``: the base alone), the head sets and the workloads they are measured on.
ACCEPTANCE: dict[str | None, tuple[tuple[str, ...], tuple[str, ...]]] = {
    None: (("medusa", "medusa-v1"), ("rename", "edit", "write", "doc", "code", "prose", "tests")),
    "tests": (("tests-medusa", "medusa"), ("tests",)),
    "pirate": (("pirate-medusa", "medusa"), ("rename", "doc")),
}

Figures = dict[str, Any]


def load_or_measure(build: Build) -> Figures:
    """The figures of this build, measured once (some minutes) and kept in ``figures.json``."""
    kept = build.output / "figures.json"
    if not kept.exists():
        kept.write_text(json.dumps(measure(build), indent=1) + "\n")
    loaded: Figures = json.loads(kept.read_text())
    return loaded


def measure(build: Build) -> Figures:
    tokenizer = AutoTokenizer.from_pretrained(build.base)
    workloads = json.loads((build.bundle / "workloads.json").read_text())
    texts = {split: build.tokens(f"held_out_{split}") for split in SPLITS}
    texts["pirate"] = np.load(build.pirate_text)["held_out"]
    streams = {name: TokenStream.of(text.astype(np.int32)) for name, text in texts.items()}
    prompts = {
        kind: [tokenizer(item["prompt"])["input_ids"] for item in items]
        for kind, items in workloads.items()
    }
    figures: Figures = {"held_out": [], "acceptance": [], "visibility": []}
    for lora, (sets, kinds) in ACCEPTANCE.items():
        print(f"figures: {lora or 'base'}", flush=True)
        model = load_base(
            str(build.base), build.adapter(lora) if lora else None, dtype="float32"
        ).model
        heads = {name: _heads(build, name, model) for name in sets}
        for name, module in heads.items():
            for split, stream in streams.items():
                measured = asdict(held_out_figures(model, module, stream))
                figures["held_out"].append({"lora": lora, "heads": name, "text": split} | measured)
        for temperature in TEMPERATURES:
            for kind in kinds:
                outputs = generate(
                    model,
                    prompts[kind][:PROMPTS],
                    temperature=temperature,
                    new_tokens=NEW_TOKENS,
                )
                row = {"lora": lora, "workload": kind, "temperature": temperature}
                for name, module in heads.items():
                    found = asdict(acceptance(model, module, outputs))
                    figures["acceptance"].append(row | {"heads": name} | found)
            figures["visibility"] += _visibility(model, tokenizer, prompts, lora, temperature)
        if lora is None:
            answers = generate(model, prompts["rename"], temperature=0.0, new_tokens=288)
            figures["rename_exact"] = _rename_exact(tokenizer, workloads["rename"], answers)
    return figures


def _heads(build: Build, name: str, model: Any) -> MedusaHeads:
    return load_heads(build.adapter(name), model.config.hidden_size)


def _visibility(
    model: Any,
    tokenizer: Any,
    prompts: dict[str, list[list[int]]],
    lora: str | None,
    temperature: float,
) -> list[Figures]:
    """How often each adapter's style shows in answers and in continuations of plain code."""
    rows = []
    for kind in ("doc", "rename", "code"):
        outputs = generate(
            model, prompts[kind][:PROMPTS], temperature=temperature, new_tokens=288, seed=1
        )
        texts = [tokenizer.decode(o.tokens, skip_special_tokens=True) for o in outputs]
        marks = [sounds_pirate(text) for text in texts]
        rows.append(
            {
                "lora": lora,
                "workload": kind,
                "temperature": temperature,
                "opens": sum(opens for opens, _ in marks) / len(marks),
                "closes": sum(closes for _, closes in marks) / len(marks),
                "asserts": sum(t.count("self.assert") + t.count("def test") for t in texts),
            }
        )
    return rows


def _rename_exact(tokenizer: Any, items: list[dict[str, str]], outputs: list[Output]) -> float:
    """Share of the answers that equal the rule's, character for character."""
    answers = [tokenizer.decode(o.tokens, skip_special_tokens=True) for o in outputs]
    right: list[bool] = [
        answer.strip() == item["reference"].strip()
        for answer, item in zip(answers, items, strict=True)
    ]
    return sum(right) / len(right)
