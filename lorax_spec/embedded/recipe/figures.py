"""Measure the bundle on held-out text and on its own outputs, for the model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from lorax_spec.embedded.recipe.lora import sounds_pirate
from lorax_spec.embedded.recipe.stages import Build
from lorax_spec.speculation.coupling import head_constants
from lorax_spec.train import calibrate, kinds
from lorax_spec.train.acceptance import acceptance, generate
from lorax_spec.train.base import load_base
from lorax_spec.train.coupled import Coupled
from lorax_spec.train.data import TokenStream
from lorax_spec.train.evaluate import held_out_figures

TEMPERATURES = (0.0, 0.8)
PROMPTS = 24
NEW_TOKENS = 96
#: Enough for any whole answer to a chat workload.
ANSWER_TOKENS = 288


@dataclass(frozen=True)
class Subject:
    """What is measured of one model: the base, or the base with a LoRA.

    ``heads`` are tried on ``workloads`` and, as the model itself, on the held-out ``texts``;
    ``styles`` are the workloads whose answers are looked at for the adapters' marks.
    """

    lora: str | None
    heads: tuple[str, ...]
    texts: tuple[str, ...]
    workloads: tuple[str, ...]
    styles: tuple[str, ...]


SUBJECTS = {
    "base": Subject(
        None,
        ("medusa", "medusa-v1", "hydra"),
        ("stdlib", "packages", "tests", "topics", "chat", "pirate"),
        ("rename", "edit", "write", "doc", "code", "prose", "tests"),
        ("doc", "rename", "code"),
    ),
    "tests": Subject(
        "tests",
        ("tests-medusa", "medusa"),
        ("tests", "stdlib", "chat"),
        ("tests",),
        ("code",),
    ),
    "pirate": Subject(
        "pirate",
        ("pirate-medusa", "medusa"),
        ("pirate", "stdlib", "chat"),
        ("rename", "doc"),
        ("doc", "rename"),
    ),
}

Figures = dict[str, Any]
Prompts = dict[str, list[list[int]]]


def measure(build: Build, name: str) -> None:
    """Write the figures of one subject."""
    subject = SUBJECTS[name]
    tokenizer = AutoTokenizer.from_pretrained(build.base)
    workloads = json.loads((build.bundle / "workloads.json").read_text())
    prompts: Prompts = {
        kind: [tokenizer(item["prompt"])["input_ids"] for item in items]
        for kind, items in workloads.items()
    }
    lora = build.adapter(subject.lora) if subject.lora else None
    model = load_base(str(build.base), lora, dtype="float32").model
    figures: Figures = {
        "held_out": _held_out(build, model, subject),
        "acceptance": _acceptance(build, model, subject, prompts),
        "styles": _styles(model, tokenizer, subject, prompts),
    }
    if subject.lora is None:
        figures["rename_exact"] = _rename_exact(
            model, tokenizer, workloads["rename"], prompts["rename"]
        )
    build.figures(name).write_text(json.dumps(figures, indent=1) + "\n")


def collect(build: Build) -> Figures:
    """The figures of all subjects; each row says which model it is of."""
    collected: Figures = {"held_out": [], "acceptance": [], "styles": []}
    for name in SUBJECTS:
        for key, value in json.loads(build.figures(name).read_text()).items():
            if isinstance(value, list):
                collected[key] += [{"model": name} | row for row in value]
            else:
                collected[key] = value
    return collected


def _held_out(build: Build, model: Any, subject: Subject) -> list[Figures]:
    rows = []
    for name in subject.heads:
        heads = kinds.load(build.adapter(name), model.config.hidden_size)
        for text in subject.texts:
            measured = held_out_figures(model, heads, _held_out_stream(build, text), windows=24)
            rows.append({"heads": name, "text": text} | asdict(measured))
    return rows


def _held_out_stream(build: Build, text: str) -> TokenStream:
    persona = text == "pirate"
    tokens = np.load(build.pirate_text)["held_out"] if persona else build.tokens(f"held_out_{text}")
    return TokenStream.of(tokens.astype(np.int32))


def _acceptance(build: Build, model: Any, subject: Subject, prompts: Prompts) -> list[Figures]:
    heads = {
        name: kinds.load(build.adapter(name), model.config.hidden_size) for name in subject.heads
    }
    constants = {
        name: head_constants(json.loads((build.adapter(name) / calibrate.FILE).read_text()))
        for name in heads
    }
    rows = []
    for temperature in TEMPERATURES:
        for kind in subject.workloads:
            asked = prompts[kind][:PROMPTS]
            outputs = generate(model, asked, temperature=temperature, new_tokens=NEW_TOKENS)
            for name, module in heads.items():
                row = {"heads": name, "workload": kind, "temperature": temperature}
                row |= asdict(acceptance(model, module, outputs))
                rank = partial(Coupled, temperature=temperature, constants=constants[name])
                calibrated = acceptance(model, module, outputs, rank)
                rows.append(row | {"calibrated_per_step": calibrated.per_step})
    return rows


def _styles(model: Any, tokenizer: Any, subject: Subject, prompts: Prompts) -> list[Figures]:
    """How often each adapter's style shows in answers and in continuations of plain code."""
    rows = []
    for temperature in TEMPERATURES:
        for kind in subject.styles:
            texts = _texts(model, tokenizer, prompts[kind][:PROMPTS], temperature)
            marks = [sounds_pirate(text) for text in texts]
            rows.append(
                {
                    "workload": kind,
                    "temperature": temperature,
                    "opens": sum(opens for opens, _ in marks) / len(marks),
                    "closes": sum(closes for _, closes in marks) / len(marks),
                    "asserts": sum(t.count("self.assert") + t.count("def test") for t in texts),
                }
            )
    return rows


def _rename_exact(
    model: Any, tokenizer: Any, items: Sequence[dict[str, str]], prompts: list[list[int]]
) -> float:
    """Share of the answers at temperature 0 that equal the rule's, character for character."""
    answers = _texts(model, tokenizer, prompts, 0.0)
    right = [
        answer.strip() == item["reference"].strip()
        for answer, item in zip(answers, items, strict=True)
    ]
    return right.count(True) / len(right)


def _texts(model: Any, tokenizer: Any, prompts: list[list[int]], temperature: float) -> list[str]:
    outputs = generate(
        model, prompts, temperature=temperature, new_tokens=ANSWER_TOKENS, seed=1, batch_size=32
    )
    return [tokenizer.decode(o.tokens, skip_special_tokens=True) for o in outputs]
