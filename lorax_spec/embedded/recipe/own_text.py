"""What the base itself makes of prompts from its training text: heads guess along such outputs, not
along what people wrote."""

from __future__ import annotations

from functools import partial

import numpy as np
from tokenizers import Tokenizer

from lorax_spec.embedded.recipe.dataset import Tokens
from lorax_spec.embedded.recipe.pretrain import MIX
from lorax_spec.embedded.recipe.prompts import some_prompts
from lorax_spec.embedded.recipe.stages import Build, Stage
from lorax_spec.train.acceptance import generate
from lorax_spec.train.base import load_base

#: Temperature and seed (of the prompts, and of the noise) by name.
TEMPERATURES = {"greedy": (0.0, 21), "sampled": (0.8, 22)}
PROMPTS = 8_000
NEW_TOKENS = 160
BATCH = 64


def write_own_text(build: Build, name: str) -> None:
    """Prompts and what the base goes on with, end to end."""
    temperature, seed = TEMPERATURES[name]
    base = load_base(str(build.base), None)
    tokenizer = Tokenizer.from_file(str(build.base / "tokenizer.json"))
    texts = {text: build.tokens(text) for text in MIX}
    prompts = some_prompts(tokenizer, texts, MIX, round(PROMPTS * build.scale), seed)
    # Rows of a batch are padded to the longest prompt.
    prompts.sort(key=len)
    written: list[Tokens] = []
    for first in range(0, len(prompts), BATCH):
        outputs = generate(
            base.model,
            prompts[first : first + BATCH],
            temperature=temperature,
            new_tokens=NEW_TOKENS,
            seed=(seed << 16) + first,
            batch_size=BATCH,
        )
        written += [np.array(one.prompt + one.tokens, dtype=np.uint16) for one in outputs]
        print(f"own text, {name}: {first + len(outputs)} of {len(prompts)} prompts", flush=True)
    order = np.random.default_rng(seed).permutation(len(written))
    draft = build.own_text(name).with_suffix(".part.npy")
    np.save(draft, np.concatenate([written[i] for i in order]))
    draft.rename(build.own_text(name))


OWN_TEXTS: dict[str, Stage] = {
    f"own-{name}": Stage(
        partial(write_own_text, name=name), partial(Build.own_text, name=name), ("export",)
    )
    for name in TEMPERATURES
}
