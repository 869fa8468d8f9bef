"""The tokenizer says what transformers says of the same folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lorax_spec.errors import InvalidArgument
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.types import Message
from tests.text.samples import FOLDER, TOKENIZER

THEIRS = AutoTokenizer.from_pretrained(FOLDER)


@given(st.text())
def test_encodes_and_decodes_like_transformers(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert ids == THEIRS.encode(text)
    assert TOKENIZER.decode(ids) == THEIRS.decode(ids, skip_special_tokens=True)


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1)))
def test_decodes_any_ids_like_transformers(ids: list[int]) -> None:
    assert TOKENIZER.decode(ids) == THEIRS.decode(ids, skip_special_tokens=True)
    assert TOKENIZER.decode(ids, False) == THEIRS.decode(ids, skip_special_tokens=False)


def test_knows_the_special_tokens() -> None:
    assert frozenset(THEIRS.all_special_ids) == TOKENIZER.special_token_ids
    assert THEIRS.eos_token_id in TOKENIZER.eos_token_ids
    assert len(THEIRS) == TOKENIZER.vocab_size


@given(st.text(), st.integers(1, 50))
def test_truncation_keeps_the_last_tokens(text: str, length: int) -> None:
    assert TOKENIZER.encode(text, truncate=length) == TOKENIZER.encode(text)[-length:]


@given(st.text())
def test_pieces_lie_where_they_say(text: str) -> None:
    pieces = TOKENIZER.pieces(text)
    assert [piece.id for piece in pieces] == TOKENIZER.encode(text)
    assert all(text[piece.start : piece.stop] == piece.text for piece in pieces)


MESSAGES = (Message("system", "Be brief."), Message("user", "héllo <b>&"), Message("assistant", ""))
TEMPLATES = {
    "its own": None,
    "filters": "{{ bos_token }}{% for m in messages %}\n    {%- if loop.first %}{{ m | tojson }}"
    "{% else %}{{ m | tojson(indent=2) }}{% endif %}\n  {% endfor %}{{ eos_token }}",
    "loop controls": "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}"
    "  {% if true %}\n{{ m.content.strip() }}\n{% endif %}\n{% endfor %}{{ strftime_now('%Y') }}",
    "generation": "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}\n"
    "{% endfor %}{% if add_generation_prompt %}>{% endif %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [True, False])
def test_renders_templates_like_transformers(tmp_path: Path, name: str, prompt: bool) -> None:
    ours = TextTokenizer.load(with_template(tmp_path, TEMPLATES[name]))
    turns = [{"role": message.role, "content": message.content} for message in MESSAGES]
    expected = THEIRS.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=prompt, chat_template=TEMPLATES[name]
    )
    assert ours.apply_chat_template(MESSAGES, add_generation_prompt=prompt) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].content + 1 }}",
        "{{ ''.__class__.__mro__ }}{{ messages.__class__.__base__.__subclasses__() }}",
        "{% for %}",
    ],
)
def test_a_template_that_fails_is_the_callers_error(tmp_path: Path, template: str) -> None:
    tokenizer = TextTokenizer.load(with_template(tmp_path, template))
    with pytest.raises(InvalidArgument) as caught:
        tokenizer.apply_chat_template(MESSAGES)
    assert caught.value.field == "messages"


def test_without_a_template_messages_are_refused(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "tokenizer.json", tmp_path)
    tokenizer = TextTokenizer.load(tmp_path)
    with pytest.raises(InvalidArgument, match="no chat template"):
        tokenizer.apply_chat_template(MESSAGES)
    assert not tokenizer.eos_token_ids


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ({"generation_config": [2, 5], "config": 7}, {2, 5}),
        ({"generation_config": None, "config": 7}, {7}),
        ({"config": 0}, {0}),
        ({}, {TOKENIZER.encode("<|im_end|>")[0]}),
    ],
)
def test_the_most_specific_config_names_the_end(
    tmp_path: Path, configs: dict[str, object], expected: set[int]
) -> None:
    folder = with_template(tmp_path, None)
    for name, value in configs.items():
        (folder / f"{name}.json").write_text(json.dumps({"eos_token_id": value}))
    assert TextTokenizer.load(folder).eos_token_ids == expected


def test_a_template_file_wins(tmp_path: Path) -> None:
    folder = with_template(tmp_path, "from the config")
    (folder / "chat_template.jinja").write_text("from the file")
    assert TextTokenizer.load(folder).apply_chat_template(MESSAGES) == "from the file"


def with_template(folder: Path, template: str | None) -> Path:
    shutil.copy(FOLDER / "tokenizer.json", folder)
    config = json.loads((FOLDER / "tokenizer_config.json").read_text())
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
