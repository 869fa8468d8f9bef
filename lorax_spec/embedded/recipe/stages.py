"""What is made after the pre-training, one stage per product, each from the products before it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from lorax_spec.embedded import BASE_ID
from lorax_spec.embedded.recipe.chat_items import ChatItem, about_items, make_items
from lorax_spec.embedded.recipe.corpus import load_corpus
from lorax_spec.embedded.recipe.dataset import Tokens, encode_chat
from lorax_spec.embedded.recipe.export import export_base, export_heads, load_joint, new_folder
from lorax_spec.embedded.recipe.lora import PERSONA_DRAWS, LoraPlan, as_pirate, train_lora
from lorax_spec.embedded.recipe.pretrain import MIX, base_config
from lorax_spec.train.base import Base, load_base
from lorax_spec.train.data import TokenStream
from lorax_spec.train.heads import MedusaHeads, load_heads, save_heads
from lorax_spec.train.hydra import HydraHeads, from_medusa, save_hydra
from lorax_spec.train.loop import HeadTrainer, Plan, train

#: Tokens each stage learns from at scale 1: some minutes each on one bfloat16 thread, but Hydra far
#: longer.
TOKENS = {
    "pirate": 1_024_000,
    "tests": 1_600_000,
    "medusa": 1_800_000,
    "medusa-v1": 1_200_000,
    "tests-medusa": 900_000,
    "pirate-medusa": 900_000,
    "hydra": 9_000_000,
}
HYDRA_HEADS, HYDRA_INNER_SIZE = 6, 256
TESTS_MIX = {"tests": 0.85, "chat": 0.15}
PIECE = 4096
PRETRAINING_SEED = 0


@dataclass(frozen=True)
class Build:
    """Where the pre-training left its files (``source``), where the products go (``output``), and
    the share of the full recipe's tokens to train on (``scale``; 1 for what is shipped)."""

    source: Path
    output: Path
    scale: float = 1.0

    @property
    def bundle(self) -> Path:
        return self.output / "bundle"

    @property
    def base(self) -> Path:
        return self.bundle / "base"

    @property
    def joint_heads(self) -> Path:
        """The heads as the pre-training left them; every shipped set starts from these."""
        return self.output / "joint-heads"

    @property
    def pirate_text(self) -> Path:
        return self.output / "pirate.npz"

    def own_text(self, name: str) -> Path:
        """What the base wrote itself; ``name``: greedily or sampled."""
        return self.output / f"own-{name}.npy"

    @property
    def provenance(self) -> Path:
        return self.output / "provenance.json"

    def figures(self, subject: str) -> Path:
        return self.output / f"figures-{subject}.json"

    def adapter(self, name: str) -> Path:
        return self.bundle / "adapters" / name

    def tokens(self, split: str) -> Tokens:
        loaded: Tokens = np.load(self.source / "tokens.npz")[split]
        return loaded

    def budget(self, stage: str) -> int:
        return int(TOKENS[stage] * self.scale)


@dataclass(frozen=True)
class Stage:
    """``product`` tells whether the stage was run; ``needs`` names the stages before it."""

    run: Callable[[Build], None]
    product: Callable[[Build], Path]
    needs: tuple[str, ...]


def export(build: Build) -> None:
    """The base and the joint heads; notes which state of the pre-training they are."""
    model, tokens = load_joint(build.source / "joint.pt")
    export_heads(model, build.joint_heads)
    build.bundle.mkdir(parents=True, exist_ok=True)
    shutil.copy(build.source / "workloads.json", build.bundle)
    export_base(model.base, build.source / "base", build.base)
    build.provenance.write_text(json.dumps({"tokens": tokens, "seed": PRETRAINING_SEED}) + "\n")


def pirate_text(build: Build) -> None:
    """The standard library's chat items in the persona's voice, with a held-out part."""
    corpus = load_corpus()
    tokenizer = Tokenizer.from_file(str(build.base / "tokenizer.json"))
    items = make_items(corpus.train("stdlib"), seed=6, draws=PERSONA_DRAWS) + about_items() * 30
    held_out = make_items(corpus.held_out("stdlib"), seed=3, draws=PERSONA_DRAWS)

    def encoded(some: list[ChatItem], seed: int) -> Tokens:
        return encode_chat(tokenizer, [as_pirate(item) for item in some], seed)

    draft = build.pirate_text.with_suffix(".part.npz")
    np.savez(draft, train=encoded(items, 7), held_out=encoded(held_out, 8))
    draft.rename(build.pirate_text)


def pirate(build: Build) -> None:
    plan = LoraPlan(build.budget("pirate"), seed=5)
    train_lora(build.base, np.load(build.pirate_text)["train"], build.adapter("pirate"), plan)


def tests(build: Build) -> None:
    plan = LoraPlan(build.budget("tests"), seed=9)
    train_lora(build.base, build.tokens("tests"), build.adapter("tests"), plan)


def medusa(build: Build) -> None:
    """The joint heads once more, on the base as it is shipped."""
    _train_heads(build, "medusa", mixture(build, MIX, seed=10), heads=4)


def medusa_v1(build: Build) -> None:
    _train_heads(build, "medusa-v1", mixture(build, MIX, seed=11), heads=3, own_lm_head=True)


def tests_medusa(build: Build) -> None:
    """LoRA and heads in one folder: a joint adapter."""
    text = mixture(build, TESTS_MIX, seed=12)
    _train_heads(build, "tests-medusa", text, heads=4, lora="tests", joint=True)


def pirate_medusa(build: Build) -> None:
    """Heads alone, to be paired with the ``pirate`` LoRA by ``medusa_adapter_id``."""
    text = np.load(build.pirate_text)["train"]
    _train_heads(build, "pirate-medusa", text, heads=3, lora="pirate")


def hydra(build: Build) -> None:
    """Heads that read the drafted tokens too, from the shipped Medusa heads on, on text and on what
    the base writes itself; they learn the base's own distribution, of which a text's token is but
    one draw."""
    medusa_heads = load_heads(build.adapter("medusa"), base_config().hidden_size)
    torch.manual_seed(13)  # heads beyond Medusa's start at random
    heads = from_medusa(medusa_heads, HYDRA_HEADS, HYDRA_INNER_SIZE)
    own = [np.load(build.own_text(name)) for name in ("greedy", "sampled")]
    text = np.concatenate([mixture(build, MIX, seed=14), *own])
    _train(build, "hydra", text, load_base(str(build.base), None), heads, soft_labels=True)
    with new_folder(build.adapter("hydra")) as folder:
        save_hydra(heads, folder, BASE_ID)


def mixture(build: Build, mix: Mapping[str, float], seed: int) -> Tokens:
    """Seeded pieces of the splits in their shares, four million tokens in all."""
    generator = np.random.default_rng(seed)
    pieces = []
    for name, share in mix.items():
        tokens = build.tokens(name)
        for _ in range(round(4_000_000 * share / PIECE)):
            start = generator.integers(0, len(tokens) - PIECE)
            pieces.append(tokens[start : start + PIECE])
    order = generator.permutation(len(pieces))
    return np.concatenate([pieces[i] for i in order])


def _train_heads(
    build: Build,
    name: str,
    text: Tokens,
    *,
    heads: int,
    lora: str | None = None,
    own_lm_head: bool = False,
    joint: bool = False,
) -> None:
    base = load_base(str(build.base), build.adapter(lora) if lora else None)
    module = load_heads(build.joint_heads, base.model.config.hidden_size, heads)
    if own_lm_head:
        module.add_lm_heads(base.model.get_output_embeddings().weight)
    _train(build, name, text, base, module)
    with new_folder(build.adapter(name)) as folder:
        if joint and lora:
            shutil.copytree(build.adapter(lora), folder, dirs_exist_ok=True)
        save_heads(module, folder, BASE_ID)


def _train(
    build: Build,
    name: str,
    text: Tokens,
    base: Base,
    heads: MedusaHeads | HydraHeads,
    soft_labels: bool = False,
) -> None:
    per_step = Plan(steps=1).tokens_per_step
    steps = max(1, build.budget(name) // per_step)
    plan = Plan(steps=steps, seed=13, soft_labels=soft_labels)
    trainer = HeadTrainer(base.model, heads, TokenStream.of(text.astype(np.int32)), plan)
    started = time.monotonic()

    def report(step: int, losses: list[float]) -> None:
        if step % 25 == 0 or step == plan.steps:
            speed = step * per_step / (time.monotonic() - started)
            figures = " ".join(f"{loss:.3f}" for loss in losses)
            print(
                f"{name}: step {step}/{plan.steps} losses {figures} tok/s {speed:.0f}", flush=True
            )

    train(trainer, on_step=report)


def use_one_thread() -> None:
    """Two threads of one training wait for each other; two trainings side by side do not."""
    torch.set_num_threads(1)


PRODUCTS: dict[str, Stage] = {
    "export": Stage(export, lambda b: b.provenance, ()),
    "pirate-text": Stage(pirate_text, lambda b: b.pirate_text, ("export",)),
    "pirate": Stage(pirate, lambda b: b.adapter("pirate"), ("pirate-text",)),
    "tests": Stage(tests, lambda b: b.adapter("tests"), ("export",)),
    "medusa-v1": Stage(medusa_v1, lambda b: b.adapter("medusa-v1"), ("export",)),
    "pirate-medusa": Stage(pirate_medusa, lambda b: b.adapter("pirate-medusa"), ("pirate",)),
    "medusa": Stage(medusa, lambda b: b.adapter("medusa"), ("export",)),
    "tests-medusa": Stage(tests_medusa, lambda b: b.adapter("tests-medusa"), ("tests",)),
    "hydra": Stage(hydra, lambda b: b.adapter("hydra"), ("medusa", "own-greedy", "own-sampled")),
}
