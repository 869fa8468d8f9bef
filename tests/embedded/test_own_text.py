"""Text the base writes itself: prompts of the mix, then its own tokens."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from lorax_spec import embedded
from lorax_spec.embedded.recipe import own_text
from lorax_spec.embedded.recipe.build import STAGES
from lorax_spec.embedded.recipe.chat_items import ChatItem
from lorax_spec.embedded.recipe.dataset import Tokens
from lorax_spec.embedded.recipe.prompts import PROMPT_TOKENS, some_prompts
from lorax_spec.embedded.recipe.stages import Build
from lorax_spec.embedded.recipe.tokenizer import prompt, render
from lorax_spec.train.acceptance import generate
from lorax_spec.train.base import load_base

MIX = {"chat": 0.5, "stdlib": 0.5}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(embedded.path() / "base" / "tokenizer.json"))


@pytest.fixture(scope="module")
def texts(tokenizer: Tokenizer) -> dict[str, Tokens]:
    chat = "".join(render(ChatItem("doc", f"Say {n}.", f"It is {n}.")) for n in range(40))
    code = "".join(f"def f{n}(x):\n    return x + {n}\n\n" for n in range(200))
    return {
        name: np.array(tokenizer.encode(text).ids, np.uint16)
        for name, text in (("chat", chat), ("stdlib", code))
    }


def test_prompts_are_turns_of_chats_and_pieces_of_text(
    tokenizer: Tokenizer, texts: dict[str, Tokens]
) -> None:
    prompts = some_prompts(tokenizer, texts, MIX, 20, seed=0)
    asked = [tokenizer.decode(one, skip_special_tokens=False) for one in prompts]
    assert len(asked) == 20
    assert {*asked[:10]} <= {prompt(f"Say {n}.") for n in range(40)}
    assert len({*asked[:10]}) == 10
    code = texts["stdlib"].tolist()
    for piece in prompts[10:]:
        assert len(piece) == PROMPT_TOKENS
        assert any(code[at : at + PROMPT_TOKENS] == piece for at in range(len(code)))
    assert some_prompts(tokenizer, texts, MIX, 20, seed=0) == prompts
    assert some_prompts(tokenizer, texts, MIX, 20, seed=1) != prompts


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(own_text.TEMPERATURES))
def test_it_is_what_the_base_goes_on_with(
    name: str,
    tmp_path: Path,
    texts: dict[str, Tokens],
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build = Build(tmp_path, tmp_path, scale=6 / own_text.PROMPTS)
    shutil.copytree(embedded.path() / "base", build.base)
    np.savez(tmp_path / "tokens.npz", **texts)
    monkeypatch.setattr(own_text, "MIX", MIX)
    monkeypatch.setattr(own_text, "NEW_TOKENS", 12)
    monkeypatch.setattr(own_text, "BATCH", 4)
    stage = STAGES[f"own-{name}"]
    stage.run(build)
    written = np.load(stage.product(build)).tolist()

    temperature, seed = own_text.TEMPERATURES[name]
    prompts = sorted(some_prompts(tokenizer, texts, MIX, 6, seed), key=len)
    base = load_base(str(build.base), None)
    outputs = [
        output
        for first in (0, 4)
        for output in generate(
            base.model,
            prompts[first : first + 4],
            temperature=temperature,
            new_tokens=12,
            seed=(seed << 16) + first,
        )
    ]
    assert len(outputs) == 6
    assert len(written) == sum(len(one.prompt) + len(one.tokens) for one in outputs)
    for one in outputs:
        whole = [*one.prompt, *one.tokens]
        assert any(written[at : at + len(whole)] == whole for at in range(len(written)))
