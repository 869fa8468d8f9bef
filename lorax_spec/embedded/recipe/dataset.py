"""Token arrays for training and evaluation, and the held-out workloads that tests and benches use.

``prepare(folder)`` writes ``tokens.npz`` (one uint16 array per split), ``base/tokenizer*.json``
and ``workloads.json``: prompts cut from held-out files only, by kind.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lorax_spec.embedded.recipe.chat_items import ChatItem, about_items, make_items
from lorax_spec.embedded.recipe.corpus import Document, load_corpus
from lorax_spec.embedded.recipe.tokenizer import (
    END_OF_TEXT,
    prompt,
    render,
    save_tokenizer,
    train_tokenizer,
)

CONTEXT = 2048
CHAT_DRAWS = {"rename": 4, "edit": 2, "doc": 1, "write": 1}
PACKAGE_CHAT_DRAWS = {"rename": 1, "edit": 1, "doc": 1, "write": 1}
HELD_OUT_DRAWS = {"rename": 1, "edit": 1, "doc": 1, "write": 1}
ABOUT_REPEATS = 60

Tokens = NDArray[np.uint16]


def prepare(folder: Path) -> None:
    """Read the corpus, fit the tokenizer, cut the chat items, encode all of it."""
    corpus = load_corpus()
    base = corpus.train("stdlib") + corpus.train("topics")
    tokenizer = train_tokenizer(document.text for document in base)
    save_tokenizer(tokenizer, folder / "base", CONTEXT)

    chat = make_items(corpus.train("stdlib"), seed=1, draws=CHAT_DRAWS)
    chat += make_items(corpus.train("packages"), seed=2, draws=PACKAGE_CHAT_DRAWS)
    chat += about_items() * ABOUT_REPEATS
    held_out_chat = make_items(corpus.held_out("stdlib"), seed=3, draws=HELD_OUT_DRAWS)

    splits = {d: encode_documents(tokenizer, corpus.train(d)) for d in corpus.domains}
    splits["chat"] = encode_chat(tokenizer, chat, seed=4)
    splits |= {
        f"held_out_{d}": encode_documents(tokenizer, corpus.held_out(d)) for d in corpus.domains
    }
    splits["held_out_chat"] = encode_chat(tokenizer, held_out_chat, seed=5)
    np.savez(folder / "tokens.npz", allow_pickle=False, **splits)
    for name, tokens in splits.items():
        print(f"{name:18s} {len(tokens):>10,} tokens")

    workloads = make_workloads(tokenizer, splits, held_out_chat)
    (folder / "workloads.json").write_text(json.dumps(workloads, indent=1) + "\n")


def encode_documents(tokenizer: Tokenizer, documents: list[Document]) -> Tokens:
    """Documents end to end, each opened by the end-of-text token."""
    separator = tokenizer.token_to_id(END_OF_TEXT)
    encodings = tokenizer.encode_batch([document.text for document in documents])
    return np.concatenate([np.array([separator, *e.ids], dtype=np.uint16) for e in encodings])


def encode_chat(tokenizer: Tokenizer, items: list[ChatItem], seed: int) -> Tokens:
    """Chat items in a seeded order, rendered by the chat template."""
    order = list(items)
    random.Random(seed).shuffle(order)
    encodings = tokenizer.encode_batch([render(item) for item in order])
    return np.concatenate([np.array(e.ids, dtype=np.uint16) for e in encodings])


def make_workloads(
    tokenizer: Tokenizer, splits: dict[str, Tokens], items: list[ChatItem]
) -> dict[str, list[dict[str, str]]]:
    """Held-out prompts by kind, each with the reference answer where the rule gives one."""
    workloads: dict[str, list[dict[str, str]]] = {}
    for kind, count in {"rename": 64, "edit": 32, "doc": 32, "write": 32}.items():
        fitting = [
            item
            for item in items
            if item.kind == kind and 40 < len(tokenizer.encode(item.user).ids) < 220
        ]
        step = max(1, len(fitting) // count)
        workloads[kind] = [
            {"prompt": prompt(item.user), "reference": item.assistant}
            for item in fitting[::step][:count]
        ]
    for kind, split, count in (
        ("code", "held_out_stdlib", 48),
        ("tests", "held_out_tests", 48),
        ("prose", "held_out_topics", 24),
    ):
        tokens = splits[split]
        starts = np.linspace(0, len(tokens) - 400, count).astype(int)
        workloads[kind] = [
            {"prompt": tokenizer.decode(tokens[s : s + 192].tolist())} for s in starts
        ]
    return workloads


if __name__ == "__main__":
    import sys

    prepare(Path(sys.argv[1]))
