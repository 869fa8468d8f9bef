"""Write MODEL_CARD.md and NOTICE for a bundle, from its measured figures."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import packages_distributions, version
from typing import Any

from lorax_spec.embedded.recipe.corpus import PERMISSIVE_PACKAGES
from lorax_spec.embedded.recipe.pretrain import MIX
from lorax_spec.embedded.recipe.stages import TOKENS, Build
from lorax_spec.train.acceptance import SHAPES

Row = Sequence[object]

INTRODUCTION = """\
# The embedded demo model of lorax-spec

A Llama of 5.5 million parameters with LoRA adapters and Medusa heads, trained from nothing by the
scripts in `lorax_spec/embedded/recipe` on the sources of CPython and of a few permissively
licensed packages. It exists so that everything in lorax-spec can be tried, tested and measured
without a GPU, a hub or an account.

**What it is.** A model that renames things in short Python functions, writes Python-shaped text
and has acceptance rates that are real.
**What it is not.** An assistant. It knows next to nothing, its code rarely works, its prose means
little, and at temperature 0 free text often runs in circles: rows that say so leave such outputs
out. Use none of its output for anything but trying the engine.

| part | what it is |
|---|---|
| `base/` | Llama, hidden 256, 6 layers, 8 query and 4 key/value heads of 32, 4,096 tokens |
| `draft/` | Llama, hidden 128, 2 layers, the same tokenizer: a draft model for the base |
| `adapters/medusa` | 4 v2 heads, trained along with the base, then on the finished base |
| `adapters/medusa-v1` | 3 v1 heads, each with an lm head of its own |
| `adapters/hydra` | 6 Hydra heads, inner size 256: each also reads the tokens drafted before it |
| `adapters/pirate` | LoRA, rank 8: a persona nobody can miss |
| `adapters/pirate-medusa` | 3 v2 heads to pair with `pirate` by `medusa_adapter_id` |
| `adapters/tests` | LoRA, rank 8: the domain of CPython's test suite |
| `adapters/tests-medusa` | the `tests` LoRA and 4 v2 heads in one folder: a joint adapter |
"""

SPLIT_RULE = """\
Files are held out by a hash of their path (5 %); no figure below was measured on text that was
trained on. Near-duplicates across files were not searched for. Chat items (rename, edit,
docstring, write) are cut from the same files by rule; `pirate` sees them in its persona's frame.
"""

RECIPE = """\
Base and four heads together: cross entropy of the next token plus 0.3 · Σ 0.8^k of head k's
(multi-token prediction: Gloeckle et al. 2024; Medusa-2: Cai et al. 2024). Muon for the matrices,
AdamW for the rest, bfloat16 with float32 masters, 4,096 tokens a step, windows of 512 tokens, of
1,024 from 60 % on, rate falling to zero over the second half. One CPU thread, no GPU.
Heads: AdamW, the base frozen, 2e-3; Hydra's start as the Medusa heads and learn the base's own
distribution (Ankner et al. 2024), on the base's text and on what it made of 16,000 prompts from
it, greedily and at temperature 0.8. LoRA: AdamW, alpha 16, all seven linears, 3e-3.
"""

CALIBRATED = """\
The same outputs, guesses ranked by the heads alone or by their `calibration.json` and, when
sampling, the noise that will choose the token (`lorax_spec/speculation/coupling.py`). The
constants were fitted to what the model made of other prompts, from held-out text.

"""

DRAFT = """\
## The draft model

0.9 million parameters (`recipe/draft.py`): next-token cross entropy on 16.0 million tokens of the
base's mix, seed 20, ten minutes on one CPU thread. Held-out loss: stdlib 3.010, packages 2.527,
tests 2.587, topics 3.840, chat 2.163. A pass takes about 0.27 of the base's (one row).
Tokens per forward of the base, drafting 4 or 8 nodes a step, in a tree around a chain; 8 prompts
each, 64 tokens, outputs in a loop left out:

| workload | T 0: 4 | 8 | outputs | T 0.8: 4 | 8 | outputs |
|---|---|---|---|---|---|---|
| write | 3.08 | 3.90 | 7 | 2.75 | 3.36 | 8 |
| doc | 1.81 | 1.96 | 5 | 1.97 | 2.07 | 8 |
| code | 2.62 | 3.19 | 2 | 2.49 | 2.88 | 8 |
| prose | 2.56 | 2.78 | 1 | 2.14 | 2.38 | 8 |
| tests | 3.05 | 3.56 | 1 | 2.38 | 2.75 | 7 |
| rename | 3.56 | 4.62 | 8 | 2.93 | 3.64 | 8 |
| edit | 3.80 | 5.19 | 8 | 3.44 | 4.39 | 8 |
"""

NOTICE = """\
The model weights in this folder were trained on the following works. Their licences ask that
these notices travel along.

CPython {python}: the standard library, its test suite and the language reference
  Copyright (c) 2001 Python Software Foundation; All Rights Reserved
  PSF-2.0, https://docs.python.org/3/license.html
"""


def write(build: Build, measured: dict[str, Any]) -> None:
    """Write both files into the bundle."""
    (build.bundle / "NOTICE").write_text(notice())
    sections = (
        INTRODUCTION,
        "## Training text\n\n" + _data(build) + "\n" + SPLIT_RULE,
        "## Recipe\n\n" + RECIPE + "\n" + _runs(build),
        "## Held-out text\n\n" + _held_out(measured["held_out"]),
        "## Accepted drafts per step\n\n" + _acceptance(measured["acceptance"]),
        "## Calibrated guesses\n\n" + _calibrated(measured["acceptance"]),
        DRAFT,
        "## Tasks and styles\n\n" + _tasks(measured),
        "## Files\n\n" + _files(build),
    )
    (build.bundle / "MODEL_CARD.md").write_text("\n".join(sections))


def notice() -> str:
    lines = [NOTICE.format(python=platform.python_version())]
    for package, licence in sorted(PERMISSIVE_PACKAGES.items()):
        if package != "_pytest":
            lines.append(f"{package} {_version(package)}: {licence}, (c) its authors")
    return "\n".join(lines) + "\n"


def _version(package: str) -> str:
    return version(packages_distributions()[package][0])


def _table(head: Row, rows: Iterable[Row]) -> str:
    def line(row: Row) -> str:
        return "| " + " | ".join(str(cell) for cell in row) + " |"

    rule = "|" + "---|" * len(head)
    return "\n".join([line(head), rule, *map(line, rows)]) + "\n"


def _data(build: Build) -> str:
    rows: list[Row] = [
        (name, f"{len(build.tokens(name)):,}", f"{len(build.tokens(f'held_out_{name}')):,}", where)
        for name, where in (
            ("stdlib", f"CPython {platform.python_version()}, PSF-2.0"),
            ("topics", "its language reference, PSF-2.0"),
            ("tests", "its test suite, PSF-2.0 (adapters only, never the base)"),
            ("packages", "see below"),
            ("chat", "cut by rule from stdlib and packages"),
        )
    ]
    packages = ", ".join(
        f"{name} {_version(name)} ({licence})"
        for name, licence in PERMISSIVE_PACKAGES.items()
        if name != "_pytest"
    )
    table = _table(("text", "tokens", "held out", "source and licence"), rows)
    return f"{table}\nPackages: {packages}. Also in `NOTICE`.\n"


def _runs(build: Build) -> str:
    """The runs as planned, and what the pre-training's own notes say went otherwise."""
    state = json.loads(build.provenance.read_text())
    mix = ", ".join(f"{name} {share:.0%}" for name, share in MIX.items())
    rows: list[Row] = [("base and heads", f"{state['tokens']:,}", state["seed"], mix)]
    texts = {"pirate": "persona", "tests": "tests", "pirate-medusa": "persona"}
    texts |= {"tests-medusa": "tests 85 %, chat 15 %", "hydra": "as the base, and its own"}
    seeds = {"pirate": 5, "tests": 9}
    rows += [
        (name, f"{build.budget(name):,}", seeds.get(name, 13), texts.get(name, "as the base"))
        for name in TOKENS
    ]
    table = _table(("run", "tokens", "seed", "text"), rows)
    history = build.source / "history.txt"
    return f"{table}\n{history.read_text()}" if history.exists() else table


def _held_out(figures: list[dict[str, Any]]) -> str:
    seen: set[tuple[str, str]] = set()
    model_rows: list[Row] = []
    head_rows: list[Row] = []
    most = max(len(row["top"]) for row in figures) - 1
    for row in figures:
        model, loss = row["model"], row["loss"][0]
        if (model, row["text"]) not in seen:
            seen.add((model, row["text"]))
            accuracy = row["top"][0][0]
            model_rows.append(
                (model, row["text"], f"{loss:.3f}", f"{math.exp(loss):.2f}", f"{accuracy:.3f}")
            )
        tops = [f"{top[0]:.3f} / {top[4]:.3f}" for top in row["top"][1:]]
        head_rows.append((model, row["heads"], row["text"], *tops, *[""] * (most - len(tops))))
    columns = ("model", "text", "loss (nats)", "perplexity", "next token right")
    heads = ("model", "heads", "text", *(f"head {k}" for k in range(1, most + 1)))
    return (
        _table(columns, model_rows)
        + "\nHeads, teacher-forced: right with the first guess / among the first five.\n\n"
        + _table(heads, head_rows)
    )


def _acceptance(figures: list[dict[str, Any]]) -> str:
    rows: list[Row] = [
        (
            row["model"],
            row["heads"],
            row["workload"],
            row["temperature"],
            *(f"{row['per_step'][shape]:.2f}" for shape in SHAPES),
            f"{row['outputs']} ({row['looping']})",
        )
        for row in figures
    ]
    text = (
        "Along the model's own outputs of up to 96 tokens; tokens per forward are one more. A\n"
        "tree is chosen best-first by the product of the heads' probabilities. Outputs that end\n"
        "in a loop are left out; their number is in brackets. One seed: differences below 0.1 are\n"
        "noise. On a model this small heads cost a third of a forward, so Medusa shows acceptance\n"
        "here and prompt lookup shows speed.\n\n"
    )
    columns = ("model", "heads", "workload", "temperature", *SHAPES, "outputs (loops)")
    return text + _table(columns, rows)


def _calibrated(figures: list[dict[str, Any]]) -> str:
    rows: list[Row] = [
        (
            row["model"],
            row["heads"],
            row["workload"],
            row["temperature"],
            *(f"{row['per_step'][shape]:.2f}" for shape in SHAPES),
            *(f"{row['calibrated_per_step'][shape]:.2f}" for shape in SHAPES),
        )
        for row in figures
    ]
    shapes = [*SHAPES, *(f"{shape}, calibrated" for shape in SHAPES)]
    return CALIBRATED + _table(("model", "heads", "workload", "temperature", *shapes), rows)


def _tasks(measured: dict[str, Any]) -> str:
    share = measured["rename_exact"]
    exact = f"Rename at temperature 0, whole answer right: {share:.0%} of 64.\n\n"
    rows: list[Row] = [
        (
            row["model"],
            row["workload"],
            row["temperature"],
            f"{row['opens']:.0%}",
            f"{row['closes']:.0%}",
            row["asserts"],
        )
        for row in measured["styles"]
    ]
    columns = (
        "model",
        "workload",
        "temperature",
        "opens as pirate",
        "closes as pirate",
        "`self.assert`, `def test` in all",
    )
    return exact + _table(columns, rows)


def _files(build: Build) -> str:
    paths = sorted(p for p in build.bundle.rglob("*") if p.suffix in (".safetensors", ".json"))
    rows: list[Row] = [
        (
            f"`{path.relative_to(build.bundle)}`",
            f"{path.stat().st_size:,}",
            f"`{hashlib.sha256(path.read_bytes()).hexdigest()}`",
        )
        for path in paths
    ]
    total = sum(path.stat().st_size for path in paths)
    return _table(("file", "bytes", "sha256"), rows) + f"\nTogether {total / 2**20:.1f} MiB.\n"
