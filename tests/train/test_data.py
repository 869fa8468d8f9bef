from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lorax_spec import embedded
from lorax_spec.errors import InvalidArgument
from lorax_spec.train.data import (
    IGNORED,
    Document,
    TokenStream,
    prompts,
    read_documents,
    split,
)

documents = st.lists(
    st.tuples(st.integers(2, 60), st.booleans()).map(
        lambda pair: Document(tuple(range(pair[0])), pair[0] // 2 if pair[1] else 0)
    ),
    min_size=1,
    max_size=60,
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(embedded.path() / "base")


def test_reads_text_folders_and_json_lines(tokenizer: Any, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.py").write_text("import os\n")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
    ]
    lines = [{"text": "one"}, {"prompt": "two ", "completion": "three"}, {"messages": messages}]
    items = tmp_path / "items.jsonl"
    items.write_text("\n".join(map(json.dumps, lines)) + "\n\n")

    source, text, pair, chat = read_documents([folder, items], tokenizer)
    assert tokenizer.decode(source.ids) == "import os\n<|im_end|>"
    assert tokenizer.decode(text.ids) == "one<|im_end|>"
    assert tokenizer.decode(pair.ids[: pair.prompt_length]) == "two "
    assert tokenizer.decode(pair.ids[pair.prompt_length :]) == "three<|im_end|>"
    assert tokenizer.decode(chat.ids[chat.prompt_length :]) == "Hello!<|im_end|>\n"
    assert tokenizer.decode(chat.ids) == tokenizer.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize(
    "line", ['{"txt": "x"}', "{", '{"messages": [{"role": "user", "content": "x"}]}']
)
def test_a_bad_line_is_named(tokenizer: Any, tmp_path: Path, line: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text('{"text": "fine"}\n' + line)
    with pytest.raises(InvalidArgument, match=r"items\.jsonl:2") as caught:
        read_documents([path], tokenizer)
    assert caught.value.field == "data"


def test_a_missing_path_is_named(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="nowhere"):
        read_documents([tmp_path / "nowhere"], tokenizer)


@given(documents, st.integers(0, 5))
def test_a_split_loses_and_shares_nothing(items: list[Document], seed: int) -> None:
    marked = [Document((n,) * len(d.ids), d.prompt_length) for n, d in enumerate(items)]
    training, held_out = split(marked, seed)
    both = sorted(token for d in training + held_out for token in d.ids)
    assert both == sorted(token for d in marked for token in d.ids)
    assert held_out
    if len(marked) >= 20:
        assert not {d.ids[0] for d in training} & {d.ids[0] for d in held_out}


@given(documents)
def test_prompts_are_given_and_never_learned(items: list[Document]) -> None:
    stream = TokenStream.join(items)
    given_tokens = sum(d.prompt_length for d in items)
    assert int((stream.labels == IGNORED).sum()) == given_tokens
    learned = stream.labels != IGNORED
    assert torch.equal(stream.ids[learned], stream.labels[learned])


@given(st.integers(30, 400), st.integers(1, 40), st.integers(5, 30))
def test_spaced_windows_do_not_overlap(size: int, windows: int, length: int) -> None:
    starts = TokenStream.of(range(size)).spaced(windows, length)
    assert starts[0] >= 0
    assert starts[-1] + length <= size
    assert all(b - a >= length for a, b in itertools.pairwise(starts))


@given(documents, st.integers(1, 20), st.integers(2, 20))
def test_prompts_are_as_many_and_as_long_as_asked(
    items: list[Document], count: int, length: int
) -> None:
    found = prompts(items, count, length)
    assert len(found) <= count
    own = {tuple(d.ids[: d.prompt_length]) for d in items if d.prompt_length}
    assert all(tuple(prompt) in own or len(prompt) == length for prompt in found)
